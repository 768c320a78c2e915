package core

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// force lets a site force quorum with its own nodes; everybody else is said to be lost.
func (l *lab) force(site domain.SiteID, acceptLoss bool) {
	cmd := Force{AcceptLoss: acceptLoss, Estimate: "what the others agreed on alone", Within: 30 * time.Second}
	for _, id := range l.cands[site].Electors() {
		if l.at[id] == site {
			cmd.Named = append(cmd.Named, id)
		} else {
			cmd.Lost = append(cmd.Lost, id)
		}
	}
	l.logf("FORCE at %s with %v, %v are lost", site, cmd.Named, cmd.Lost)
	l.do(site, l.cands[site].Force(l.now, cmd))
}

// back boots a lost site.
func (l *lab) back(site domain.SiteID, reaches bool) {
	l.logf("BACK: %s, reaches the others %v", site, reaches)
	p := l.cands[site].p
	p.ColdStart, p.Incarnation = true, p.Incarnation+1
	l.candidate(p)
	for _, id := range l.nodesOf(site) {
		delete(l.down, string(id))
		rec := l.voters[id].Record()
		l.voters[id] = NewVoter(id, rec, Unknown(rec, l.now))
	}
	delete(l.down, string(site))
	for id, far := range l.at {
		for _, other := range l.order {
			if far != other && (far == site || other == site) {
				l.down[string(other)+">"+string(id)], l.down[string(id)+">"+string(other)] = !reaches, !reaches
			}
		}
	}
	l.do(site, l.cands[site].Campaign(l.now, Campaign{}))
}

// The field's case: three nodes at the primary, two at the secondary. The primary site dies, quorum is forced at the secondary, the
// primary comes back, first cut off and then not.
func TestForcedQuorumTextbook(t *testing.T) {
	l := begin(newLab(t, threeAndTwo()...))
	l.lose("a")
	l.run(settle)
	l.force("b", false)
	l.run(settle)
	if l.serving() != "" {
		t.Fatal("forced although the three lost nodes could have agreed on writes alone, and nobody accepted that")
	}
	l.force("b", true)
	l.run(settle)
	if l.serving() != "b" {
		t.Fatalf("%q serves after the force, want b", l.serving())
	}
	l.back("a", false)
	l.run(settle)
	if l.serving() != "b" {
		t.Fatalf("%q serves after the primary came back cut off, want b", l.serving())
	}
	l.back("a", true)
	l.run(settle)
	for _, id := range l.nodesOf("a") {
		if e := l.voters[id].Record().VEpoch; e.Force() != 1 {
			t.Errorf("voter %s of the returned site is at epoch %s, want generation 1", id, e)
		}
	}
	l.do("b", l.cands["b"].ProposeConfig(l.now, weightsOf(threeAndTwo()...)))
	l.run(time.Second)
	lease, ok := l.cands["b"].Lease(l.now)
	if !ok || !lease.Reg.Config.Weights.Same(weightsOf(threeAndTwo()...)) || lease.Reg.Config.Joint() {
		t.Errorf("held %v under %v, want the weights of before", ok, lease.Reg.Config)
	}
	if _, ok := l.cands["a"].Lease(l.now); ok {
		t.Error("a holds a lease, too")
	}
	golden(t, filepath.Join("testdata", "textbook", "primary-lost-and-forced.golden"),
		"node majority, three and two: quorum is forced at the secondary; the primary adopts it when it returns, and the votes are restored\n\n"+l.story())
}

// A change of votes may never have been agreed on, and then the old ones decide alone; or it is finished, and then the new ones do.
func TestEitherSideOfAChangeMayDecideAlone(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  Config
		want bool
	}{
		"no change":          {Config{Weights: Weights{"a": 1, "b": 2}}, false},
		"the old votes":      {Config{Weights: Weights{"b": 1}, Old: Weights{"a": 2, "b": 1}}, true},
		"the new votes":      {Config{Weights: Weights{"a": 2, "b": 1}, Old: Weights{"a": 1, "b": 1}}, true},
		"neither of the two": {Config{Weights: Weights{"a": 1, "b": 1}, Old: Weights{"a": 1, "b": 2}}, false},
	} {
		if got := c.cfg.Either(func(id VoterID) bool { return id == "a" }); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// changes has the holder a ask for other weights and die once b's voters, and only they, were told.
func (l *lab) changes(to Weights) {
	for _, id := range l.nodesOf("a") {
		l.down[string(id)] = true
	}
	l.do("a", l.cands["a"].ProposeConfig(l.now, to))
	l.run(ms(300))
	l.lose("a")
}

func TestAForceIsRefusedAndSaysWhatStandsInItsWay(t *testing.T) {
	every := func(l *lab) ([]VoterID, []VoterID) { return l.nodesOf("b"), l.nodesOf("a") }
	for name, tt := range map[string]struct {
		before func(*lab)
		cmd    func(named, lost []VoterID) Force
		want   Reason
		who    []VoterID
	}{
		"a voter is left out": {func(l *lab) { l.lose("a") }, func(n, x []VoterID) Force { return Force{Named: n, Lost: x[:2]} }, NotAccounted, []VoterID{"a3"}},
		"a voter is on both sides": {func(l *lab) { l.lose("a") },
			func(n, x []VoterID) Force { return Force{Named: append(n, "a1"), Lost: x} }, NotAccounted, []VoterID{"a1"}},
		"a stranger":                       {func(l *lab) { l.lose("a") }, func(n, x []VoterID) Force { return Force{Named: append(n, "z9"), Lost: x} }, UnknownVoter, []VoterID{"z9"}},
		"nobody is named":                  {func(l *lab) { l.lose("a") }, func(n, x []VoterID) Force { return Force{Lost: append(n, x...)} }, EmptyConfig, nil},
		"a lost voter answers":             {func(l *lab) { l.lose("a2", "a3") }, func(n, x []VoterID) Force { return Force{Named: n, Lost: x, AcceptLoss: true} }, StillAnswers, []VoterID{"a1"}},
		"the lost could have agreed alone": {func(l *lab) { l.lose("a") }, func(n, x []VoterID) Force { return Force{Named: n, Lost: x} }, LossUnknown, nil},
		"the lost could have agreed alone, were a change of weights not agreed on": {func(l *lab) { l.changes(Weights{"b1": 1, "b2": 1}) },
			func(n, x []VoterID) Force { return Force{Named: n, Lost: x} }, LossUnknown, nil},
		"a named voter is silent": {func(l *lab) { l.lose("a"); l.down["b2"] = true },
			func(n, x []VoterID) Force { return Force{Named: n, Lost: x, AcceptLoss: true} }, ForceTooLate, nil},
		"the site may join only": {func(l *lab) { l.lose("a"); l.do("b", l.cands["b"].Prevent(l.now, true)) },
			func(n, x []VoterID) Force { return Force{Named: n, Lost: x, AcceptLoss: true} }, FormingNotAllowed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(newLab(t, threeAndTwo()...))
			tt.before(l)
			cmd := tt.cmd(every(l))
			cmd.Within = 15 * time.Second
			var got *ForceRefused
			look := func(actions []Action) {
				for _, a := range actions {
					if r, ok := a.(ForceRefused); ok {
						got = &r
					}
				}
				l.do("b", actions)
			}
			look(l.cands["b"].Force(l.now, cmd))
			if got == nil { // it takes its time, and is told in the transcript
				l.run(16 * time.Second)
				if !slices.ContainsFunc(l.lines, func(line string) bool { return strings.Contains(line, "force refused: "+string(tt.want)) }) {
					t.Fatalf("not refused with %q:\n%s", tt.want, l.story())
				}
			} else if got.Reason != tt.want || tt.who != nil && !slices.Equal(got.Voters, tt.who) {
				t.Errorf("refused with %q %v, want %q %v", got.Reason, got.Voters, tt.want, tt.who)
			}
			if l.serving() == "b" {
				t.Error("b serves all the same")
			}
		})
	}
}

// A grant that the other side was given in its last moment is waited out, also where no named voter knows of it.
func TestAForceWaitsForALeaseNoNamedVoterKnowsOf(t *testing.T) {
	l := begin(newLab(t, threeAndTwo()...))
	l.lose("a")
	from := l.now
	l.force("b", true)
	l.run(DefaultTiming().G - ms(100))
	if l.serving() != "" {
		t.Fatalf("%q serves %v after the force began, before G is over", l.serving(), l.now.Sub(from))
	}
	l.run(2 * time.Second)
	if l.serving() != "b" {
		t.Errorf("%q serves, want b", l.serving())
	}
}

// A site that was forced just after a boot, and has heard nobody, may take its next epoch in that boot, and not in the next.
func TestAForcedGrantEndsTheColdStartOfThatBoot(t *testing.T) {
	l := begin(newLab(t, threeAndTwo()...))
	l.lose("a")
	boot := func() {
		p := l.cands["b"].p
		p.ColdStart, p.Incarnation = true, p.Incarnation+1
		l.candidate(p)
	}
	boot()
	l.force("b", true)
	l.run(settle)
	lease, ok := l.cands["b"].Lease(l.now)
	if !ok {
		t.Fatal("b was not granted the group")
	}
	l.do("b", l.cands["b"].Campaign(l.now, Campaign{Above: lease.Epoch}))
	l.run(settle)
	if next, ok := l.cands["b"].Lease(l.now); !ok || next.Epoch <= lease.Epoch {
		t.Errorf("the next epoch: %v %s, want one above %s", ok, next.Epoch, lease.Epoch)
	}
	boot()
	l.do("b", l.cands["b"].Campaign(l.now, Campaign{}))
	l.run(settle)
	if l.serving() != "" {
		t.Errorf("%q serves after a boot in which nobody was heard", l.serving())
	}
}

// A force that was given up after some of the named voters promised blocks nobody for ever: once everybody agrees, and no voter has
// a register of it, the old votes count again.
func TestAnUnfinishedForceIsVoidOnceEverybodyAgrees(t *testing.T) {
	l := begin(newLab(t, threeAndTwo()...))
	l.lose("a")
	l.voters["b1"].Handle(l.now, Request{Verb: Probe, From: "b"})
	l.run(settle)
	promised := l.voters["b1"].Record().Promised.NextForced(2)
	if out := l.voters["b1"].Handle(l.now, Request{Verb: Prepare, From: "b", Epoch: promised}); out.Reply.Verdict != OK {
		t.Fatalf("prepare %s: %s", promised, out.Reply.Verdict)
	}
	l.back("a", true)
	l.down["b2"] = true
	l.run(settle)
	if l.serving() != "" {
		t.Fatalf("%q serves while one voter that may have voted in the force is silent", l.serving())
	}
	delete(l.down, "b2")
	l.run(settle)
	if l.serving() == "" {
		t.Errorf("nobody serves although every voter answers:\n%s", l.story())
	}
}

func TestAPromiseOfAHigherGenerationInTheOwnProcessStopsTheHolder(t *testing.T) {
	l := begin(newLab(t, threeAndTwo()...))
	lease, _ := l.cands["a"].Lease(l.now)
	l.do("a", l.cands["a"].Heard(l.now, lease.Epoch.Next(2)))
	if l.serving() != "a" {
		t.Fatal("a promise of the same generation stopped the holder")
	}
	l.do("a", l.cands["a"].Heard(l.now, lease.Epoch.NextForced(2)))
	if l.serving() != "" {
		t.Error("a still holds its lease")
	}
}

func TestPreventKeepsALeaseAndForbidsTheNext(t *testing.T) {
	l := begin(newLab(t, threeAndTwo()...))
	l.do("a", l.cands["a"].Prevent(l.now, true))
	l.run(settle)
	if l.serving() != "a" {
		t.Fatal("a lost the lease it held")
	}
	l.do("a", l.cands["a"].Release(l.now, ""))
	l.do("a", l.cands["a"].Campaign(l.now, Campaign{}))
	l.run(settle)
	if l.serving() != "" {
		t.Fatal("a formed a quorum although it may join only")
	}
	l.do("a", l.cands["a"].Prevent(l.now, false))
	l.do("a", l.cands["a"].Campaign(l.now, Campaign{}))
	l.run(settle)
	if l.serving() != "a" {
		t.Error("a may form a quorum again, and does not")
	}
}

// The first attempt reached one voter: the second finds a register that shows no loss, and the loss is recorded all the same.
func TestALossThatAForceAcceptedIsRecordedAlsoByItsSecondAttempt(t *testing.T) {
	l := begin(newLab(t, threeAndTwo()...))
	l.lose("a")
	l.force("b", true)
	for l.cands["b"].state != accepting {
		l.run(ms(1))
	}
	l.down["b2"] = true
	l.run(ms(20))
	if e := l.voters["b1"].Record().VEpoch; e.Force() != 1 || l.voters["b2"].Record().VEpoch.Force() != 0 {
		t.Fatalf("b1 has %s: want the register of the first attempt at b1 alone", e)
	}
	l.run(2 * time.Second)
	if l.serving() != "" {
		t.Fatalf("%q serves with one voter", l.serving())
	}
	delete(l.down, "b2")
	l.run(settle)
	if l.serving() != "b" || !strings.Contains(strings.Join(l.lines, "\n"), "loss accepted: what the others agreed on alone") {
		t.Errorf("%q serves, want b, with the loss recorded:\n%s", l.serving(), l.story())
	}
}

// Who is lost and never had a vote that is known here changes nothing: registers elsewhere may name it.
func TestAForceMayNameAStrangerAsLost(t *testing.T) {
	l := begin(newLab(t, threeAndTwo()...))
	l.lose("a")
	l.do("b", l.cands["b"].Force(l.now, Force{Named: l.nodesOf("b"), Lost: append(l.nodesOf("a"), "z9"), AcceptLoss: true, Within: 30 * time.Second}))
	l.run(settle)
	if l.serving() != "b" {
		t.Errorf("%q serves, want b:\n%s", l.serving(), l.story())
	}
}

// A force that is given up says whether votes were asked for: then the old ones may be void.
func TestAForceThatIsGivenUpSaysWhetherItWasBegun(t *testing.T) {
	for _, begun := range []bool{false, true} {
		l := begin(newLab(t, threeAndTwo()...))
		l.lose("a")
		l.force("b", true)
		for begun && l.cands["b"].state != accepting {
			l.run(ms(1))
		}
		l.down["b2"] = true
		c := l.cands["b"]
		i := slices.IndexFunc(c.Tick(c.force.until), func(a Action) bool {
			r, ok := a.(ForceRefused)
			return ok && r.Reason == ForceTooLate && r.Begun == begun
		})
		if i < 0 {
			t.Errorf("begun %v: not told so", begun)
		}
	}
}
