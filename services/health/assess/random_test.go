package assess_test

import (
	"math/rand/v2"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// TestWhateverIsSeenADisasterNeedsItsEvidence plays 2,000 schedules of arbitrary views, seeds 1 to 2,000, and checks every
// change.
func TestWhateverIsSeenADisasterNeedsItsEvidence(t *testing.T) {
	confirmed := 0
	for seed := uint64(1); seed <= 2000; seed++ {
		r := rand.New(rand.NewPCG(seed, 0))
		among := []domain.SiteID{"a", "b", "c", "w"}[:2+r.IntN(3)]
		self := among[r.IntN(len(among))]
		st := assess.Resume()
		for range 8 {
			in := assess.Input{Self: self, Sites: among, Own: randomView(r, self, among), Views: map[domain.SiteID]api.View{}}
			for _, s := range among {
				if s != self && r.IntN(3) > 0 {
					in.Views[s] = randomView(r, s, among)
				}
			}
			var res assess.Result
			st, res = assess.Decide(st, assess.Rules{}, in)
			for _, c := range res.Changes {
				if in.Own.Sick {
					t.Fatalf("seed %d: a sick observer told %s.%s", seed, c.Entity, c.Fact)
				}
				if c.Entity != assess.EntityDisaster {
					continue
				}
				if res.Isolated || c.Assessment.Site == self {
					t.Fatalf("seed %d: told %s of %s, isolated %v", seed, c.Fact, c.Assessment.Site, res.Isolated)
				}
				if c.Fact == assess.FactConfirmed {
					confirmed++
					checkEvidence(t, seed, in, c.Assessment.Site)
				}
			}
		}
	}
	if confirmed < 20 {
		t.Fatalf("only %d disasters were confirmed: the schedules prove little", confirmed)
	}
}

// checkEvidence counts anew, from the views alone.
func checkEvidence(t *testing.T, seed uint64, in assess.Input, site domain.SiteID) {
	t.Helper()
	in.Views[in.Self] = in.Own
	dead := map[string]int{}
	for who, v := range in.Views {
		if v.Sick || who == site {
			continue
		}
		for _, o := range v.Observations {
			if o.Kind != assess.KindSite || o.Site != site {
				continue
			}
			if o.State == api.StateDead {
				dead[o.Path]++
			}
			if (o.State == api.StateAlive || o.State == api.StateSuspect) && o.Missed <= 1 {
				t.Fatalf("seed %d: %s confirmed lost while it answers %s", seed, site, who)
			}
		}
	}
	if dead[assess.PathHeartbeat] < 2 || dead[assess.PathAPI] < 2 {
		t.Fatalf("seed %d: %s confirmed lost on %v", seed, site, dead)
	}
}

func randomView(r *rand.Rand, observer domain.SiteID, among []domain.SiteID) api.View {
	v := api.View{Observer: observer, Sick: r.IntN(8) == 0}
	for _, s := range among {
		if s == observer {
			continue
		}
		states := "ad"
		if r.IntN(3) == 0 {
			states = "amsrd-"
		}
		first := states[r.IntN(len(states))]
		second := first
		if r.IntN(3) == 0 {
			second = states[r.IntN(len(states))]
		}
		v.Observations = append(v.Observations,
			observation(assess.KindSite, string(s), s, assess.PathHeartbeat, first),
			observation(assess.KindSite, string(s), s, assess.PathAPI, second))
	}
	return v
}
