package whatif_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/whatif"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// ballotBox is real candidates and voters in virtual time, without latency, with what was lost taken away.
type ballotBox struct {
	now    core.Instant
	voters map[core.VoterID]*core.Voter
	cands  map[domain.SiteID]*core.Candidate
	lost   []whatif.Loss
}

func newBallotBox(reg core.Register, at map[core.VoterID]domain.SiteID) *ballotBox {
	b := &ballotBox{voters: map[core.VoterID]*core.Voter{}, cands: map[domain.SiteID]*core.Candidate{}}
	for id := range at {
		b.voters[id] = core.NewVoter(id, core.Record{}, core.Volatile{})
	}
	for i, s := range []domain.SiteID{"a", "b"} {
		b.cands[s] = core.NewCandidate(core.Params{Self: s, Index: i + 1, Rank: i, Timing: core.DefaultTiming(), Initial: reg, Sites: at, Incarnation: 1})
	}
	return b
}

// answers reports whether a voter, which stands at the site of its name, answers a site.
func (b *ballotBox) answers(s domain.SiteID, v core.VoterID) bool {
	return !slices.ContainsFunc(b.lost, func(l whatif.Loss) bool {
		switch l.Kind {
		case whatif.LoseLink:
			return l.A == string(s) && l.B == string(v) || l.B == string(s) && l.A == string(v)
		case whatif.LoseVoter:
			return l.A == string(v)
		}
		return l.A == string(v) || l.A == string(s)
	})
}

func (b *ballotBox) do(s domain.SiteID, actions []core.Action) {
	for len(actions) > 0 {
		send, ok := actions[0].(core.Send)
		actions = actions[1:]
		if ok && b.answers(s, send.To) {
			out := b.voters[send.To].Handle(b.now, send.Req)
			actions = append(actions, b.cands[s].Receive(b.now, out.Reply)...)
		}
	}
}

// run lets time pass for the sites that live.
func (b *ballotBox) run(d time.Duration) {
	for end := b.now.Add(d); b.now < end; b.now = b.now.Add(50 * time.Millisecond) {
		for _, s := range []domain.SiteID{"a", "b"} {
			if b.answers(s, core.VoterID(s)) {
				b.do(s, b.cands[s].Tick(b.now))
			}
		}
	}
}

func (b *ballotBox) holds(s domain.SiteID) bool {
	_, ok := b.cands[s].Lease(b.now)
	return ok && b.answers(s, core.VoterID(s))
}

// Random votes and in-sync sets, each single loss and each two: what is predicted to stay is still held, what is predicted to move is
// granted to that site, and what is predicted to stop is held by nobody, when the real candidates and voters are let go.
func TestThePredictionIsWhatTheRealVoteDoes(t *testing.T) {
	at := map[core.VoterID]domain.SiteID{"a": "a", "b": "b", "w": "w"}
	seen := map[string]int{}
	for seed := uint64(1); seed <= 30; seed++ {
		r := rand.New(rand.NewPCG(seed, 0))
		st := state()
		for id, v := range st.Votes {
			v.Reg.Config = core.Config{Version: 1, Weights: core.Weights{"a": 1 + r.IntN(2), "b": r.IntN(3), "w": r.IntN(2)}}
			if v.Reg.InSync = []domain.SiteID{"a"}; r.IntN(2) > 0 {
				v.Reg.InSync = []domain.SiteID{"a", "b"}
			}
			st.Votes[id] = v
		}
		all := whatif.All(st.Plan)
		cases := whatif.Pairs(all)
		for _, l := range all {
			cases = append(cases, []whatif.Loss{l})
		}
		for _, losses := range cases {
			p, err := whatif.Predict(st, losses)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range p.Groups {
				seen[f.What]++
				b := newBallotBox(st.Votes[f.Group].Reg, at)
				b.do("a", b.cands["a"].Campaign(b.now, core.Campaign{}))
				b.run(time.Second)
				b.lost = losses
				if f.What == whatif.Moves {
					b.do("b", b.cands["b"].Campaign(b.now, core.Campaign{AcceptLoss: f.Group == "log" || f.Group == "old"}))
				}
				b.run(15 * time.Second)
				if a, moved := b.holds("a"), b.holds("b"); a != (f.What == whatif.Stays) || moved != (f.What == whatif.Moves) {
					t.Fatalf("seed %d, %s: group %s %s (%v), and in earnest a holds it %v, b %v\n%v", seed, p.Title(), f.Group, f.What, st.Votes[f.Group], a, moved, f.Why)
				}
			}
		}
	}
	if seen[whatif.Stays] < 100 || seen[whatif.Moves] < 50 || seen[whatif.Stops] < 50 {
		t.Errorf("too few of each: %v", seen)
	}
}
