package quorum_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/quorum"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

func TestTheServiceTellsThePlannersWarningsAndWhatIsKnownOfItsVoters(t *testing.T) {
	t.Parallel()
	share := t.TempDir()
	members := []quorum.Voter{node("a"), node("b"), {Member: core.Member{ID: "share", Kind: core.KindShare}, Site: "b", Path: share, Local: true}}
	plan := planner.Input{Model: core.NodeAndShareMajority, Timing: testTiming(),
		Sites:  []planner.Site{{ID: "a", Role: domain.SiteData}, {ID: "b", Role: domain.SiteData}},
		Groups: []domain.Group{{ID: erp, Home: "a"}}}
	for _, v := range members {
		plan.Voters = append(plan.Voters, planner.Voter{Member: v.Member, Site: v.Site})
	}
	two := 2
	plan.Voters[0].Weight = &two // not what the service is given: the weights in force will differ
	c := startCluster(&cluster{t: t, model: core.NodeAndShareMajority, voters: members, plan: plan}, "a", "b")
	a := c.sites["a"]
	told := make(chan event.QuorumWarned, 64)
	go func() {
		_ = a.client.Local().FollowEvents(t.Context(), nil, bus.FromStart, func(_ context.Context, _ event.Event, f event.Fact) {
			if w, ok := f.(*event.QuorumWarned); ok {
				told <- *w
			}
		})
	}()
	expect := func(code string) {
		t.Helper()
		for {
			select {
			case w := <-told:
				if w.Code == code && w.Fact == "warning_raised" && w.Site == "a" && w.Text != "" && w.Mend != "" {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%s was not told", code)
			}
		}
	}
	expect("Q05")
	a.acquire()
	expect("Q31")
	c.await("what only a running site knows", func() bool {
		st, err := bus.Call[api.QuorumStatus](t.Context(), a.client.Local(), api.ServiceQuorum, api.VerbStatus, api.Empty{})
		if err != nil {
			return false
		}
		far := slices.IndexFunc(st.Voters, func(v api.VoterStatus) bool { return v.ID == "v-b" })
		sh := slices.IndexFunc(st.Voters, func(v api.VoterStatus) bool { return v.ID == "share" })
		return st.Voters[far].RTTSamples > 0 && st.Voters[far].RTTP99Ns > 0 && st.Voters[sh].RTTSamples > 0 && st.Voters[sh].Conformance == planner.ConformanceOK &&
			st.Groups[0].Weights["share"] == 1
	})
}

// A service that is started with other weights puts them in force for the group it holds, while the group is served, and only
// once every voter answers.
func TestChangedWeightsComeIntoForceOnceEveryVoterAnswers(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a := c.sites["a"]
	a.acquire()
	a.kill()
	three := 3
	changed := append([]quorum.Voter(nil), c.voters...)
	changed[0].Weight = &three
	c.voters = changed
	c.isolate("w", true)
	a.start()
	l := a.acquire()
	if l.Weights["v-a"] != 1 {
		t.Errorf("weights %v were put in force while voter w did not answer", l.Weights)
	}
	c.isolate("w", false)
	c.await("the new weights", func() bool {
		now, _, err := a.lease(0)
		if err == nil && !now.Held {
			t.Errorf("the lease was lost on the way: %+v", now)
			return true
		}
		return err == nil && now.Weights["v-a"] == 3 && !now.Joint && now.Epoch == l.Epoch
	})
}
