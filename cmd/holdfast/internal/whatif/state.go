package whatif

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

// State is an installation as its sites tell of it.
type State struct {
	Plan planner.Input // who votes, where
	List api.GroupList // desired state
	Down []domain.SiteID
	Cut  []Loss // links that are cut already
	// Unreached are the disks, shares, objects and witness services that each site says not to reach.
	Unreached map[domain.SiteID]map[core.VoterID]bool
	Votes     map[domain.GroupID]Vote
	// Loss is what each target of a group would lose if it went on alone now.
	Loss   map[domain.GroupID]map[domain.SiteID]api.LossEstimate
	Copies map[domain.GroupID]map[domain.SiteID]api.GroupStatus
	Runs   map[domain.GroupID]api.Run // under way, or the last one, of each group, as its leader tells it where that answers
	// Prevented are the sites that may join a quorum only.
	Prevented map[domain.SiteID]bool
	// Health is what each site's health service says; one that does not answer is no vantage point. Vantages is how many must have
	// lost a site before it is lost: at least 2.
	Health   map[domain.SiteID]api.HealthStatus
	Vantages int
	// At is the time of the loss, in the zone that windows are written in, and Declared are the declarations of all sites.
	At       time.Time
	Declared []api.Declaration
}

// Vote is a group's vote as the voters have it.
type Vote struct {
	Holder domain.SiteID // empty: nobody
	Epoch  domain.Epoch
	Reg    core.Register // no weights: nothing is known, the configured ones count
}

// Loss is one thing to lose: a site, a voter, or a link between two places.
type Loss struct {
	Kind string `json:"kind"` // site, voter, link
	A    string `json:"a"`
	B    string `json:"b,omitempty"` // a link's other end
}

// Kinds of Loss.
const (
	LoseSite  = "site"
	LoseVoter = "voter"
	LoseLink  = "link"
)

func (l Loss) String() string {
	if l.Kind == LoseLink {
		return l.Kind + ":" + l.A + "-" + l.B
	}
	return l.Kind + ":" + l.A
}

// All lists every single thing that can be lost: the sites, the voters, and the links of sites with one another and with voters
// that stand at none.
func All(in planner.Input) []Loss {
	var out []Loss
	for _, s := range in.Sites {
		out = append(out, Loss{Kind: LoseSite, A: string(s.ID)})
	}
	for _, v := range in.Voters {
		out = append(out, Loss{Kind: LoseVoter, A: string(v.ID)})
	}
	places := places(in)
	for i, a := range places {
		for _, b := range places[i+1:] {
			if isSite(in, a) || isSite(in, b) {
				out = append(out, Loss{Kind: LoseLink, A: a, B: b})
			}
		}
	}
	return out
}

// Pairs lists every two of the losses.
func Pairs(single []Loss) [][]Loss {
	var out [][]Loss
	for i, a := range single {
		for _, b := range single[i+1:] {
			out = append(out, []Loss{a, b})
		}
	}
	return out
}

func places(in planner.Input) []string {
	var out []string
	for _, s := range in.Sites {
		out = append(out, string(s.ID))
	}
	for _, v := range in.Voters {
		if v.Site == "" {
			out = append(out, string(v.ID))
		}
	}
	return out
}

func isSite(in planner.Input, name string) bool {
	return slices.ContainsFunc(in.Sites, func(s planner.Site) bool { return string(s.ID) == name })
}

// Parse reads a loss as it is written on the command line: site:a, voter:w, link:a-b. Errors wrap domain.ErrInvalid.
func Parse(in planner.Input, text string) (Loss, error) {
	kind, name, _ := strings.Cut(text, ":")
	fail := func(mend string) (Loss, error) {
		return Loss{}, fmt.Errorf("lose %q: %w: %s", text, domain.ErrInvalid, mend)
	}
	all := places(in)
	switch kind {
	case LoseSite:
		if !isSite(in, name) {
			var sites []string
			for _, s := range in.Sites {
				sites = append(sites, string(s.ID))
			}
			return fail(fmt.Sprintf("name one of the sites %v", sites))
		}
		return Loss{Kind: kind, A: name}, nil
	case LoseVoter:
		var voters []string
		for _, v := range in.Voters {
			if voters = append(voters, string(v.ID)); string(v.ID) == name {
				return Loss{Kind: kind, A: name}, nil
			}
		}
		return fail(fmt.Sprintf("name one of the voters %v", voters))
	case LoseLink:
		for i := range name { // names may hold a dash themselves
			if name[i] == '-' && slices.Contains(all, name[:i]) && slices.Contains(all, name[i+1:]) && name[:i] != name[i+1:] {
				return Loss{Kind: kind, A: name[:i], B: name[i+1:]}, nil
			}
		}
		return fail(fmt.Sprintf("write link:X-Y with two of %v", all))
	}
	return fail("write site:NAME, voter:NAME or link:NAME-NAME")
}

// world is what is left after losses.
type world struct {
	State
	cfg    core.Config
	lost   map[string]bool       // places
	mute   map[core.VoterID]bool // voters
	cut    map[[2]string]bool    // pairs of places, in order
	at     map[core.VoterID]string
	leaves []domain.SiteID // sites that are left
	// seen is what their observers conclude, and unheld what they would without maintenance windows.
	seen, unheld sight
}

func newWorld(st State, cfg core.Config, losses []Loss) world {
	w := world{State: st, cfg: cfg, lost: map[string]bool{}, mute: map[core.VoterID]bool{}, cut: map[[2]string]bool{}, at: map[core.VoterID]string{}}
	for _, s := range st.Down {
		w.lost[string(s)] = true
	}
	for _, l := range slices.Concat(st.Cut, losses) {
		switch l.Kind {
		case LoseSite:
			w.lost[l.A] = true
		case LoseVoter:
			w.mute[core.VoterID(l.A)] = true
		case LoseLink:
			w.cut[pair(l.A, l.B)] = true
		}
	}
	for _, v := range st.Plan.Voters {
		w.at[v.ID] = string(v.Site)
		if v.Site == "" {
			w.at[v.ID] = string(v.ID)
		}
	}
	for _, s := range st.Plan.Sites {
		if !w.lost[string(s.ID)] {
			w.leaves = append(w.leaves, s.ID)
		}
	}
	return w
}

func pair(a, b string) [2]string {
	if b < a {
		a, b = b, a
	}
	return [2]string{a, b}
}

// reaches reports whether two places reach each other. Services keep a connection to each site and pass nothing on, so what
// a third site reaches does not help, unless it relays between the two: then it takes the place of a link of their own.
func (w world) reaches(a, b string) bool {
	if w.lost[a] || w.lost[b] || a == b {
		return !w.lost[a] && !w.lost[b]
	}
	if via := w.between(a, b); via != "" {
		return !w.lost[via] && !w.cut[pair(a, via)] && !w.cut[pair(via, b)]
	}
	return !w.cut[pair(a, b)]
}

// between is the site that relays between two; empty where none does. Of other sites' ways round the plan does not know.
func (w world) between(a, b string) string {
	for _, s := range w.Plan.Sites {
		if from := string(w.Plan.From); from == a && string(s.ID) == b || from == b && string(s.ID) == a {
			return string(s.Via)
		}
	}
	return ""
}

// answers reports whether a voter answers a site.
func (w world) answers(site domain.SiteID) func(core.VoterID) bool {
	return func(id core.VoterID) bool {
		at, known := w.at[id]
		return known && !w.mute[id] && !w.Unreached[site][id] && w.reaches(string(site), at)
	}
}

// votes are those that count for a group.
func (w world) votes(g domain.GroupID) core.Config {
	if v, ok := w.Votes[g]; ok && len(v.Reg.Config.Weights) > 0 {
		return v.Reg.Config
	}
	return w.cfg
}

// prevented reports whether a site may not be granted a group because an operator keeps it from forming a quorum.
func (w world) prevented(site domain.SiteID, g domain.GroupID) bool {
	return w.Prevented[site] && w.Votes[g].Holder != site
}

// canHold reports whether a site can be granted a group, or keep it: it stores, its own quorum service lives, and a quorum
// answers it. One that may join a quorum only keeps what it has.
func (w world) canHold(site domain.SiteID, g domain.GroupID) bool {
	return w.alive(site) && !w.prevented(site, g) && w.votes(g).Quorum(w.answers(site))
}

// alive reports whether a data site and its quorum service are left.
func (w world) alive(site domain.SiteID) bool {
	i := slices.IndexFunc(w.Plan.Sites, func(s planner.Site) bool { return s.ID == site })
	return i >= 0 && w.Plan.Sites[i].Role == domain.SiteData && !w.lost[string(site)] && !w.mute[core.VoterID(site)]
}

// holdDowns are those of the groups, each once, the shortest first.
func (st State) holdDowns() []time.Duration {
	var out []time.Duration
	for _, g := range st.List.Groups {
		out = append(out, g.Group.HoldDown)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (st State) group(id domain.GroupID) (api.GroupDesired, bool) {
	for _, g := range st.List.Groups {
		if g.Group.ID == id {
			return g, true
		}
	}
	return api.GroupDesired{}, false
}

func (st State) definitions() map[domain.GroupID]domain.Group {
	out := map[domain.GroupID]domain.Group{}
	for _, g := range st.List.Groups {
		out[g.Group.ID] = g.Group
	}
	return out
}

// findsHost reports whether a VM finds a host at a site: one that it may run on and that the site's health service does not take for dead.
func (st State) findsHost(v domain.VM, site domain.SiteID) bool {
	return slices.ContainsFunc(v.Sites[site].Hosts, func(h domain.HostID) bool { return !st.Health[site].View.Dead(assess.KindHost, string(h), site) })
}
