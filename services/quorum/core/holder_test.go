package core

import (
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// heldBy brings a candidate to hold epoch 0.1.1 at instant 0 without a network, and gives back what it last sent.
func heldBy(t *testing.T, p Params) (*Candidate, []Action) {
	t.Helper()
	c := NewCandidate(p)
	actions := c.Campaign(0, Campaign{})
	for range 3 {
		actions = replies(c, 0, actions)
	}
	if _, ok := c.Lease(0); !ok {
		t.Fatal("not granted")
	}
	return c, actions
}

// replies answers every Send of the actions with OK at an instant.
func replies(c *Candidate, now Instant, actions []Action) []Action {
	var out []Action
	for _, a := range actions {
		if s, ok := a.(Send); ok {
			out = append(out, c.Receive(now, yes(s))...)
		}
	}
	return out
}

func yes(s Send) Response {
	return Response{Voter: s.To, Verb: s.Req.Verb, Nonce: s.Req.Nonce, Verdict: OK, Promised: s.Req.Epoch, VEpoch: s.Req.Epoch}
}

func loneParams() Params {
	return Params{Self: "a", Index: 1, Timing: DefaultTiming(), Incarnation: 1, Initial: threeVoters("a", "b")}
}

func has[T Action](actions []Action) bool {
	return slices.ContainsFunc(actions, func(a Action) bool { _, ok := a.(T); return ok })
}

func TestAnAcknowledgementAfterExpiryRevivesNothing(t *testing.T) {
	c, _ := heldBy(t, loneParams())
	round := c.Tick(at(1.5))
	after := Instant(DefaultTiming().Hold())
	out := replies(c, after, round)
	if !has[Lost](out) || has[Extended](out) {
		t.Errorf("acknowledged at the deadline: %v, want Lost and nothing extended", out)
	}
	if _, ok := c.Lease(after); ok {
		t.Error("the lease is held after its deadline")
	}
}

func TestTheDeadlineCountsFromTheSendingOfItsOwnRound(t *testing.T) {
	c, _ := heldBy(t, loneParams())
	first := c.Tick(at(1.5))
	second := c.Tick(at(2.0)) // the first had its time
	if !has[Send](first) || !has[Send](second) {
		t.Fatal("no renewals")
	}
	replies(c, at(2.1), first) // late, still of the first round
	if l, _ := c.Lease(at(2.1)); l.Deadline != at(1.5).Add(DefaultTiming().Hold()) {
		t.Errorf("deadline %v, want 1.5 s + H", time.Duration(l.Deadline))
	}
	// One of the first round and one of the second are no quorum together.
	c2, _ := heldBy(t, loneParams())
	first, second = c2.Tick(at(1.5)), c2.Tick(at(2.0))
	c2.Receive(at(2.1), yes(first[0].(Send)))
	c2.Receive(at(2.1), yes(second[1].(Send)))
	if l, _ := c2.Lease(at(2.1)); l.Deadline != Instant(DefaultTiming().Hold()) {
		t.Errorf("deadline %v moved by two halves of two rounds", time.Duration(l.Deadline))
	}
	// Nor does one voter count twice.
	c2.Receive(at(2.1), yes(second[1].(Send)))
	if l, _ := c2.Lease(at(2.1)); l.Deadline != Instant(DefaultTiming().Hold()) {
		t.Error("deadline moved by a repeated acknowledgement")
	}
}

func TestAShrinkIsCommittedOnlyByAQuorumOfItsOwnUpdate(t *testing.T) {
	c, _ := heldBy(t, loneParams())
	renewal := c.Tick(at(1.5))
	update := c.ProposeInSync(at(1.6), ep(1, 1), []domain.SiteID{"a"}, 1)
	if out := replies(c, at(1.7), renewal); has[InSyncCommitted](out) {
		t.Error("committed by the acknowledgements of a renewal")
	}
	if l, _ := c.Lease(at(1.7)); l.Committed || !l.Reg.Holds("b") {
		t.Errorf("lease shows %v committed before the quorum", l.Reg.InSync)
	}
	if out := c.Receive(at(1.7), yes(update[0].(Send))); has[InSyncCommitted](out) {
		t.Error("committed by one voter of three")
	}
	if out := c.Receive(at(1.7), yes(update[1].(Send))); !has[InSyncCommitted](out) {
		t.Error("not committed by two of three")
	}
}

func TestInSyncRequestsAreRefusedByName(t *testing.T) {
	tests := []struct {
		name    string
		epoch   domain.Epoch
		set     []domain.SiteID
		counter uint64
		want    Reason
	}{
		{"older counter", ep(1, 1), []domain.SiteID{"a"}, 4, StaleCounter},
		{"same counter, another set", ep(1, 1), []domain.SiteID{"a", "c"}, 5, StaleCounter},
		{"an older epoch", ep(0, 1), []domain.SiteID{"a"}, 6, OtherEpoch},
		{"without the holder", ep(1, 1), []domain.SiteID{"b"}, 6, MissingSelf},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := heldBy(t, loneParams())
			c.ProposeInSync(0, ep(1, 1), []domain.SiteID{"a", "b"}, 5)
			out := c.ProposeInSync(0, tt.epoch, tt.set, tt.counter)
			if len(out) != 1 || out[0] != (Refused{tt.want}) {
				t.Errorf("got %v, want refused: %s", out, tt.want)
			}
		})
	}
}

func TestConsentToALossIsUsedOnce(t *testing.T) {
	p := loneParams()
	p.Initial = threeVoters("b")
	c := NewCandidate(p)
	actions := c.Campaign(0, Campaign{AcceptLoss: true, Estimate: "3 s"})
	for range 3 {
		actions = replies(c, 0, actions)
	}
	lease, ok := c.Lease(0)
	if !ok || !lease.Reg.Holds("a") || lease.Reg.Holds("b") {
		t.Fatalf("lease %+v, want in sync [a]", lease)
	}
	c.Tick(at(7)) // expired; the campaign goes on
	if !c.Competing() || c.campaign.AcceptLoss {
		t.Error("the campaign after the lease must go on without the consent")
	}
}

func TestNoCampaignWhereQuorumIsPrevented(t *testing.T) {
	p := loneParams()
	p.JoinOnly = true
	if out := NewCandidate(p).Campaign(0, Campaign{}); len(out) != 1 || out[0] != (Refused{FormingNotAllowed}) {
		t.Errorf("got %v", out)
	}
}

func TestEpochsOfOneSiteGrowOverRestarts(t *testing.T) {
	w := newWorld(t, "va", "vb", "vw")
	w.mute = true
	var last domain.Epoch
	for i := range 5 {
		p := w.params("a", 0, threeVoters("a"))
		p.Incarnation = uint64(i + 1)
		c := w.candidate(p)
		w.do("a", c.Campaign(w.now, Campaign{}))
		w.run(time.Second)
		l, ok := c.Lease(w.now)
		if !ok || l.Epoch <= last {
			t.Fatalf("restart %d: held %v, epoch %s after %s", i, ok, l.Epoch, last)
		}
		last = l.Epoch
	}
}

func TestAHolderThatIsAskedForAHigherEpochDropsItsOwn(t *testing.T) {
	w := newWorld(t, "va", "vb", "vw")
	a := w.candidate(w.params("a", 0, threeVoters("a", "b")))
	w.do("a", a.Campaign(w.now, Campaign{}))
	w.run(ms(100))
	old, _ := a.Lease(w.now)
	w.lines = nil
	w.do("a", a.Campaign(w.now, Campaign{Above: old.Epoch - 1})) // already above
	w.do("a", a.Campaign(w.now, Campaign{Above: old.Epoch}))
	w.run(ms(100))
	w.expect(`
		0.100 a LOST 0.1.1: a newer epoch was asked for at this site
		0.100 a phase waiting
		0.110 a phase comparing views
		0.110 a -> va prepare 0.2.1
		0.110 a -> vb prepare 0.2.1
		0.110 a -> vw prepare 0.2.1
		0.120 a phase tally
		0.120 a -> va accept 0.2.1
		0.120 a -> vb accept 0.2.1
		0.120 a -> vw accept 0.2.1
		0.130 a GRANTED 0.2.1 until 6.001 in sync [a b]
		0.130 a phase functional
	`)
}
