package declaration

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

// ByPolicy is who declares where no person is needed.
const ByPolicy = "policy"

// keptActs bounds what a declaration remembers of its life; all of it is in the audit.
const keptActs = 200

// State is the declarations that this site leads, oldest first, and what is not durable about them. It is never changed in place.
type State struct {
	List []api.Declaration
	// Lost is since when each site is confirmed lost, on the clock of Input.Now; later by the time in which health said nothing of it.
	Lost map[domain.SiteID]time.Duration
	// Silent is since when health says nothing of one that was confirmed lost before. Its hold-down stands still meanwhile.
	Silent map[domain.SiteID]time.Duration
}

// Loss is what the own site's health service says of another site. All false: it says nothing.
type Loss struct {
	Suspected, Confirmed bool
	Well                 bool // it is seen alive
	Proof                api.DisasterProof
}

// Input is what is known now.
type Input struct {
	Self   domain.SiteID
	NewID  domain.DeclarationID // for one that is opened; with the site's name, as several may be
	Now    time.Duration        // of a boot-time clock
	Wall   time.Time            // in the zone that windows are written in
	Losses map[domain.SiteID]Loss
	// Drained are sites that take no groups by themselves.
	Drained []domain.SiteID
	Groups  []api.GroupDesired
	Runs    []api.Run // led here, oldest first
	// Held says of groups for which no run can be begun now why.
	Held map[domain.GroupID]string
	// Failed says of groups whose run could not even begin why.
	Failed  map[domain.GroupID]string
	Surveys map[domain.GroupID]api.DeclarationSurvey
	Votes   []api.VoterStatus // as the own quorum service last told them
	// ApprovalLasts is how long a word counts. 0: an hour.
	ApprovalLasts time.Duration
}

// Launch is a failover run, or one for each plan, to be begun.
type Launch struct {
	Declaration       domain.DeclarationID
	Site              domain.SiteID
	Groups            []domain.GroupID
	Order             *api.DeclaredOrder // as a person wants it; nil: a run for each plan, at the newest state
	Checkpoints       map[domain.GroupID]domain.LSN
	AcceptLoss        map[domain.GroupID]bool
	By, Claimed, Host string
	Why               string
}

// Actions are what a decision wants done, in this order.
type Actions struct {
	Keep   []api.Declaration // durably, before the state counts
	Launch []Launch
}

// Find is the declaration of an id.
func (s State) Find(id domain.DeclarationID) (api.Declaration, bool) {
	if i := slices.IndexFunc(s.List, func(d api.Declaration) bool { return d.ID == id }); i >= 0 {
		return s.List[i], true
	}
	return api.Declaration{}, false
}

// counted is how long a declaration without a person counts towards how often a day there may be one.
const counted = 24 * time.Hour

// Forgettable reports whether nothing depends on a declaration any more: it ended long ago, bars nothing, and all of it was told.
func Forgettable(d api.Declaration, wall time.Time) bool {
	return api.DeclarationEnded(d.State) && wall.Sub(d.Ended) >= counted && lastAct(d) <= d.Told && !d.Barred &&
		!slices.ContainsFunc(d.Groups, func(g api.DeclaredGroup) bool { return g.Barred })
}

// Trim drops the oldest declarations beyond most of which none counts any more.
func Trim(list []api.Declaration, most int, wall time.Time) []api.Declaration {
	beyond := len(list) - most
	if beyond <= 0 {
		return list
	}
	out := make([]api.Declaration, 0, len(list))
	for i, d := range list {
		if i >= beyond || !Forgettable(d, wall) {
			out = append(out, d)
		}
	}
	return out
}

// Need is how many people have to approve before a group is taken over, and why. today is how often it was declared without one
// in the last 24 hours.
func Need(g domain.Group, wall time.Time, today int) (people int, why string) {
	switch g.Failover {
	case domain.FailoverAuto:
		if !g.Automatic.Allowed(wall) {
			return 1, "its policy is automatic (failover: auto), but not at this time of day: one person has to approve"
		}
		if most := g.Automatic.PerDay; most > 0 && today >= most {
			return 1, "its policy is automatic (failover: auto), but it was declared as often as it may be in a day: one person has to approve"
		}
		return 0, "its policy is automatic (failover: auto)"
	case domain.FailoverConfirm:
		if g.Approvers >= 2 {
			return 2, "its policy asks two people (failover: confirm, approvers: 2)"
		}
		return 1, "its policy asks one person (failover: confirm)"
	}
	return 1, "its policy leaves the decision to a person (failover: manual)"
}

// Today is how often a group was declared without a person in the 24 hours before wall.
func Today(list []api.Declaration, id domain.GroupID, wall time.Time) int {
	n := 0
	for _, d := range list {
		for _, g := range d.Groups {
			if g.Group == id && g.Automatic && !g.Declared.IsZero() && wall.Sub(g.Declared) < counted {
				n++
			}
		}
	}
	return n
}

// GroupsOf lists the groups that a run takes.
func GroupsOf(r api.Run) []domain.GroupID {
	var out []domain.GroupID
	for _, st := range r.Steps {
		if st.Kind == plan.KindAcquire {
			out = append(out, st.Group)
		}
	}
	return out
}

// StateOf is the state of a declaration: that of the group that most needs attention.
func StateOf(groups []api.DeclaredGroup) string {
	for _, state := range []string{api.DeclarationAwaiting, api.DeclarationHeldDown, api.DeclarationDeclared, api.DeclarationConfirmed,
		api.DeclarationSuspected, api.DeclarationOver} {
		if slices.ContainsFunc(groups, func(g api.DeclaredGroup) bool { return g.State == state }) {
			return state
		}
	}
	return api.DeclarationWithdrawn
}

func clone(list []api.Declaration) []api.Declaration {
	out := slices.Clone(list)
	for i := range out {
		out[i].Acts = slices.Clone(out[i].Acts)
		out[i].Groups = slices.Clone(out[i].Groups)
		for j := range out[i].Groups {
			out[i].Groups[j].Approvals = slices.Clone(out[i].Groups[j].Approvals)
		}
	}
	return out
}
