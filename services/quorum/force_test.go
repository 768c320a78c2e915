package quorum_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/quorum"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/filevoter"
)

// unevenSites are the field's case: the primary site has three votes, the secondary two.
func unevenSites(t *testing.T) *cluster {
	t.Helper()
	vote := func(id domain.SiteID, n int) quorum.Voter {
		v := node(id)
		v.Weight = &n
		return v
	}
	return newCluster(t, core.NodeMajority, []quorum.Voter{vote("a", 3), vote("b", 2)}, "a", "b")
}

func (s *site) ask(verb string, req, out any) error {
	ctx, cancel := context.WithTimeout(s.c.t.Context(), 20*time.Second)
	defer cancel()
	switch out := out.(type) {
	case *api.ForceStatus:
		got, err := bus.Call[api.ForceStatus](ctx, s.client.Local(), api.ServiceQuorum, verb, req)
		*out = got
		return err
	default:
		_, err := bus.Call[api.Empty](ctx, s.client.Local(), api.ServiceQuorum, verb, req)
		return err
	}
}

func (s *site) status() api.QuorumStatus {
	s.c.t.Helper()
	st, err := bus.Call[api.QuorumStatus](s.c.t.Context(), s.client.Local(), api.ServiceQuorum, api.VerbStatus, api.Empty{})
	if err != nil {
		s.c.t.Fatal(err)
	}
	return st
}

func forceOf(voter, lost string) api.ForceRequest {
	return api.ForceRequest{Groups: []domain.GroupID{erp}, Voters: []string{voter}, Lost: []string{lost}, Down: true, AcceptLoss: true,
		Estimates: map[domain.GroupID]string{erp: "3 s"}, Why: "fire in hall 1", By: "kim"}
}

// force asks for it and approves, as two people, and gives how it ended.
func (s *site) force(req api.ForceRequest) api.ForceOutcome {
	s.c.t.Helper()
	var st api.ForceStatus
	if err := s.ask(api.VerbForce, req, &st); err != nil {
		s.c.t.Fatal(err)
	}
	if err := s.ask(api.VerbApprove, api.ForceApproval{ID: st.ID, By: "sam"}, &st); err != nil {
		s.c.t.Fatal(err)
	}
	s.c.await("the force has ended", func() bool {
		all := s.status().Forces
		st = all[len(all)-1]
		return st.State == api.ForceDone
	})
	return st.Outcomes[0]
}

// forceFacts follows what is told of forces in a site's events.
func (s *site) forceFacts() <-chan event.QuorumForced {
	out := make(chan event.QuorumForced, 8)
	go func() {
		_ = s.client.Local().FollowEvents(s.c.t.Context(), nil, bus.FromStart, func(_ context.Context, _ event.Event, f event.Fact) {
			if l, ok := f.(*event.QuorumForced); ok {
				out <- *l
			}
		})
	}()
	return out
}

func TestQuorumIsForcedAtTheSecondaryAndHeals(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: waits out five leases; the full tests run it")
	}
	t.Parallel()
	c := unevenSites(t)
	a, b := c.sites["a"], c.sites["b"]
	l := a.acquire()
	a.kill()
	c.isolate("a", true)
	facts := b.forceFacts()
	if _, err := b.campaign(api.CampaignRequest{TimeoutNs: int64(4 * time.Second)}); !errors.Is(err, domain.ErrNoQuorum) {
		t.Fatalf("b campaigns with two of five votes: %v, want no quorum", err)
	}
	req := forceOf("v-b", "v-a")
	req.AcceptLoss = false
	if out := b.force(req); !strings.Contains(out.Error, "the loss is not accepted") {
		t.Fatalf("forced %s, %q, although the lost votes are a majority and nobody accepted a loss", out.Epoch, out.Error)
	}
	var st api.ForceStatus
	if err := b.ask(api.VerbForce, forceOf("v-b", "v-a"), &st); err != nil {
		t.Fatal(err)
	}
	if err := b.ask(api.VerbApprove, api.ForceApproval{ID: st.ID, By: "sam"}, &st); err != nil {
		t.Fatal(err)
	}
	c.await("b holds the lease", func() bool { got, _, err := b.lease(0); return err == nil && got.Held })
	got, _, _ := b.lease(0)
	if got.Epoch.Force() != l.Epoch.Force()+1 || !got.Forced || len(got.InSync) != 1 || got.InSync[0] != "b" {
		t.Fatalf("lease %+v, want generation %d, forced, in sync b alone", got, l.Epoch.Force()+1)
	}
	if f := nextForce(t, facts); f.Fact != "quorum_forced" || f.Epoch != got.Epoch || f.By != "kim" || f.Approver != "sam" || f.AcceptedLoss != "3 s" {
		t.Errorf("event %+v", f)
	}

	c.bootID = "boot-2" // a comes back through a boot, and reaches nobody at first
	a.start()
	if _, err := a.campaign(api.CampaignRequest{TimeoutNs: int64(2 * c.timing.G)}); !errors.Is(err, domain.ErrNoQuorum) || !strings.Contains(err.Error(), string(core.ColdStart)) {
		t.Fatalf("a campaigns with three of five votes, just booted: %v, want a cold start", err)
	}
	c.isolate("a", false)
	c.await("the configured votes count again", func() bool { got, _, err := b.lease(0); return err == nil && got.Held && !got.Forced })
	if f := nextForce(t, facts); f.Fact != "quorum_healed" || len(f.Voters) != 2 {
		t.Errorf("event %+v, want quorum_healed with both voters", f)
	}
	if l, _, err := a.lease(0); err != nil || l.Held || l.Epoch.Force() != 1 {
		t.Errorf("a shows %+v, %v: want the forced generation, not held", l, err)
	}
}

func TestAForceThatIsCompletedTooLateIsToldAllTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: waits until an operator's word holds no more; the full tests run it")
	}
	t.Parallel()
	c := unevenSites(t)
	a, b := c.sites["a"], c.sites["b"]
	b.kill()
	var mute atomic.Bool
	b.faults = func(_ domain.GroupID, p filevoter.Point) error {
		if p != filevoter.DirSynced || !mute.Load() {
			return nil
		}
		_, body, _ := bytes.Cut(b.vote(), []byte("\n"))
		var rec core.Record
		if err := json.Unmarshal(body, &rec); err != nil || rec.VEpoch.Force() > 0 { // it voted, and its answer is lost
			return errors.New("no answer")
		}
		return nil
	}
	b.start()
	a.acquire()
	a.kill()
	c.isolate("a", true)
	facts := b.forceFacts()
	mute.Store(true)
	if out := b.force(forceOf("v-b", "v-a")); !strings.Contains(out.Error, string(core.ForceTooLate)) || !strings.Contains(out.Error, "it was begun") {
		t.Fatalf("forced %s, %q, want it begun and too late", out.Epoch, out.Error)
	}
	mute.Store(false)
	c.bootID = "boot-2"
	c.isolate("a", false)
	a.start()
	got, err := b.campaign(api.CampaignRequest{TimeoutNs: int64(10 * time.Second)})
	if err != nil || got.Epoch.Force() == 0 {
		t.Fatalf("b campaigns once it hears a: %+v, %v, want what was begun completed", got, err)
	}
	if f := nextForce(t, facts); f.Fact != "quorum_forced" || f.Epoch != got.Epoch || f.By != "kim" || f.Approver != "sam" || f.AcceptedLoss != "3 s" {
		t.Errorf("event %+v", f)
	}
}

func nextForce(t *testing.T, facts <-chan event.QuorumForced) event.QuorumForced {
	t.Helper()
	select {
	case f := <-facts:
		return f
	case <-time.After(30 * time.Second):
		t.Fatal("no event came")
	}
	return event.QuorumForced{}
}

func TestAForceNeedsTwoPeopleAndSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	c := unevenSites(t)
	b := c.sites["b"]
	for want, change := range map[string]func(*api.ForceRequest){
		"nobody said that the machines of v-a are off": func(r *api.ForceRequest) { r.Down = false },
		"no reason is given":                           func(r *api.ForceRequest) { r.Why = " " },
		"who asks is not said":                         func(r *api.ForceRequest) { r.By = "" },
		"no group is named":                            func(r *api.ForceRequest) { r.Groups = nil },
		"voter v-a must be named":                      func(r *api.ForceRequest) { r.Lost = nil },
		"voter v-b is this site's own":                 func(r *api.ForceRequest) { r.Voters, r.Lost = r.Lost, r.Voters },
		"v-z is no voter":                              func(r *api.ForceRequest) { r.Voters = append(r.Voters, "v-z") },
		"is no name of a voter":                        func(r *api.ForceRequest) { r.Lost = append(r.Lost, "v z") },
	} {
		req := forceOf("v-b", "v-a")
		change(&req)
		var st api.ForceStatus
		if err := b.ask(api.VerbForce, req, &st); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), want) {
			t.Errorf("force: %v, want it refused with %q", err, want)
		}
	}
	var st api.ForceStatus
	if err := b.ask(api.VerbForce, api.ForceRequest{Groups: []domain.GroupID{erp}, Voters: []string{"v-a", "v-b"}, Why: "to its end", By: "kim"}, &st); err != nil || st.State != api.ForceWaiting {
		t.Errorf("with every voter, which needs nobody's word: %+v, %v", st, err)
	}
	if err := b.ask(api.VerbForce, forceOf("v-b", "v-a"), &st); err != nil || st.State != api.ForceWaiting {
		t.Fatalf("force: %+v, %v", st, err)
	}
	approve := func(want string, req api.ForceApproval) {
		t.Helper()
		if err := b.ask(api.VerbApprove, req, new(api.ForceStatus)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("approve: %v, want it refused with %q", err, want)
		}
	}
	approve("kim asked for it", api.ForceApproval{ID: st.ID, By: "Kim"})
	approve("who approves is not said", api.ForceApproval{ID: st.ID})
	approve("it was not asked for here", api.ForceApproval{ID: "other", By: "sam"})
	if err := b.ask(api.VerbApprove, api.ForceApproval{ID: st.ID, By: "kim", Withdraw: true}, &st); err != nil || st.State != api.ForceWithdrawn {
		t.Errorf("withdraw: %+v, %v", st, err)
	}
	approve("it is withdrawn", api.ForceApproval{ID: st.ID, By: "sam"})
	if out := b.force(forceOf("v-b", "v-a")); !strings.Contains(out.Error, "v-a; switch it off") {
		t.Errorf("forced %s, %q, although the voter that is said to be lost answers", out.Epoch, out.Error)
	}
}

// A lost site that starts again with another lost place at its side could have a majority of the old votes.
func TestAForceOverVotersOfSeveralPlacesAsksThatLostSitesArePrevented(t *testing.T) {
	t.Parallel()
	b := threeSites(t).sites["b"]
	req := forceOf("v-b", "v-a")
	req.Lost = append(req.Lost, "v-w")
	var st api.ForceStatus
	if err := b.ask(api.VerbForce, req, &st); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "several places are lost (a, w)") {
		t.Errorf("force: %v, want it refused", err)
	}
	req.Prevented = true
	if err := b.ask(api.VerbForce, req, &st); err != nil || st.State != api.ForceWaiting || !st.Prevented {
		t.Errorf("force: %+v, %v", st, err)
	}
}

func TestAPreventedSiteJoinsAndNeverForms(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a, b := c.sites["a"], c.sites["b"]
	if err := a.ask(api.VerbPrevent, api.PreventRequest{On: true, By: "kim"}, nil); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("prevent without a reason: %v", err)
	}
	if err := c.sites["w"].ask(api.VerbPrevent, api.PreventRequest{On: true, By: "kim", Why: "x"}, nil); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("prevent at a witness: %v", err)
	}
	if err := a.ask(api.VerbPrevent, api.PreventRequest{On: true, By: "kim", Why: "forced at b"}, nil); err != nil {
		t.Fatal(err)
	}
	refused := func(when string) {
		t.Helper()
		if _, err := a.campaign(api.CampaignRequest{}); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), string(core.FormingNotAllowed)) {
			t.Errorf("campaign %s: %v, want it refused", when, err)
		}
	}
	refused("once it is prevented")
	a.kill()
	a.start()
	refused("after a restart")
	if !a.status().Prevented {
		t.Error("the status does not tell it")
	}
	c.isolate("w", true)
	b.acquire() // with the vote of a, which joins
	c.isolate("w", false)
	if err := b.release(b.status().Groups[0].Epoch, ""); err != nil {
		t.Fatal(err)
	}
	if err := a.ask(api.VerbPrevent, api.PreventRequest{By: "kim", Why: "all is well"}, nil); err != nil {
		t.Fatal(err)
	}
	a.acquire()
}
