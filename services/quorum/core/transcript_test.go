package core

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func threeVoters(inSync ...domain.SiteID) Register {
	return Register{InSync: inSync, Config: Config{Version: 1, Weights: weightsOf("va", "vb", "vw")}}
}

func TestAFreeVoteIsGrantedAndRenewed(t *testing.T) {
	w := newWorld(t, "va", "vb", "vw")
	a := w.candidate(w.params("a", 0, threeVoters("a", "b")))
	w.do("a", a.Campaign(w.now, Campaign{}))
	w.run(4 * time.Second)
	w.expect(`
		0.000 a phase contacting
		0.010 a phase comparing views
		0.010 a -> va prepare 0.1.1
		0.010 a -> vb prepare 0.1.1
		0.010 a -> vw prepare 0.1.1
		0.020 a phase tally
		0.020 a -> va accept 0.1.1
		0.020 a -> vb accept 0.1.1
		0.020 a -> vw accept 0.1.1
		0.030 a GRANTED 0.1.1 until 5.901 in sync [a b]
		0.030 a phase functional
		1.530 a extended until 7.401
		3.030 a extended until 8.901
	`)
}

func TestACutOffHolderIsDeadBeforeAnotherIsGranted(t *testing.T) {
	w := newWorld(t, "va", "vb", "vw")
	reg := threeVoters("a", "b")
	a, b := w.candidate(w.params("a", 0, reg)), w.candidate(w.params("b", 1, reg))
	w.do("a", a.Campaign(w.now, Campaign{}))
	w.run(time.Second)
	w.do("b", b.Campaign(w.now, Campaign{}))
	w.run(ms(1500))
	w.lines = nil
	for _, v := range []string{"vb", "vw"} {
		w.down["a>"+v], w.down[v+">a"] = true, true
	}
	w.run(8 * time.Second)
	w.expect(`
		2.640 va probe to b: busy
		2.640 vb probe to b: busy
		2.640 vw probe to b: busy
		4.275 va probe to b: busy
		4.275 vb probe to b: busy
		4.275 vw probe to b: busy
		5.910 va probe to b: busy
		5.910 vb probe to b: busy
		5.910 vw probe to b: busy
		7.401 a LOST 0.1.1: lease expired without a quorum
		7.401 a phase waiting
		7.545 va probe to b: busy
		7.550 b phase comparing views
		7.550 b -> va prepare 0.2.2
		7.550 b -> vb prepare 0.2.2
		7.550 b -> vw prepare 0.2.2
		7.555 va prepare to b: busy
		7.560 b phase tally
		7.560 b -> va accept 0.2.2
		7.560 b -> vb accept 0.2.2
		7.560 b -> vw accept 0.2.2
		7.570 b GRANTED 0.2.2 until 13.441 in sync [a b]
		7.570 b phase functional
		8.156 va probe to a: busy
		8.906 va probe to a: busy
		9.070 b extended until 14.941
		9.656 va probe to a: busy
		10.406 va probe to a: busy
	`)
}

func TestAPlannedMoveTakesThreeRoundTrips(t *testing.T) {
	w := newWorld(t, "va", "vb", "vw")
	reg := threeVoters("a", "b")
	a, b := w.candidate(w.params("a", 0, reg)), w.candidate(w.params("b", 1, reg))
	w.do("a", a.Campaign(w.now, Campaign{}))
	w.run(ms(100))
	w.do("b", b.Campaign(w.now, Campaign{}))
	w.run(ms(1500))
	w.lines = nil
	w.do("a", a.Release(w.now, "b"))
	w.do("a", a.Campaign(w.now, Campaign{})) // the reservation keeps it out
	w.run(ms(300))
	w.expect(`
		1.600 a RELEASED 0.1.1 to "b"
		1.600 a phase idle
		1.600 a -> va release 0.1.1
		1.600 a -> vb release 0.1.1
		1.600 a -> vw release 0.1.1
		1.600 a phase contacting
		1.605 va probe to a: busy
		1.605 vb probe to a: busy
		1.605 vw probe to a: busy
		1.610 a vacated 0.1.1 for "b"
		1.610 a phase waiting
		1.615 b phase comparing views
		1.615 b -> va prepare 0.2.2
		1.615 b -> vb prepare 0.2.2
		1.615 b -> vw prepare 0.2.2
		1.625 b phase tally
		1.625 b -> va accept 0.2.2
		1.625 b -> vb accept 0.2.2
		1.625 b -> vw accept 0.2.2
		1.635 b GRANTED 0.2.2 until 7.506 in sync [a b]
		1.635 b phase functional
	`)
}

func TestTheShareGivesTheSurvivorItsMajority(t *testing.T) {
	w := newWorld(t, "va", "vb", "share")
	reg := Register{InSync: []domain.SiteID{"a", "b"}, Config: Config{Version: 1, Weights: weightsOf("va", "vb", "share")}}
	a, b := w.candidate(w.params("a", 0, reg)), w.candidate(w.params("b", 1, reg))
	w.do("a", a.Campaign(w.now, Campaign{}))
	w.run(time.Second)
	w.do("b", b.Campaign(w.now, Campaign{}))
	w.run(ms(2000))
	w.lines = nil
	w.down["a"], w.down["va"] = true, true
	w.run(8 * time.Second)
	w.expect(`
		4.275 vb probe to b: busy
		6.400 vb probe to b: busy
		8.145 b phase comparing views
		8.145 b -> share prepare 0.2.2
		8.145 b -> va prepare 0.2.2
		8.145 b -> vb prepare 0.2.2
		8.155 b phase tally
		8.155 b -> share accept 0.2.2
		8.155 b -> va accept 0.2.2
		8.155 b -> vb accept 0.2.2
		8.165 b GRANTED 0.2.2 until 14.036 in sync [a b]
		8.165 b phase functional
		9.675 b extended until 15.546
	`)
}

func TestAShrunkenInSyncSetKeepsTheOtherSiteOut(t *testing.T) {
	w := newWorld(t, "va", "vb", "vw")
	reg := threeVoters("a", "b")
	a, b := w.candidate(w.params("a", 0, reg)), w.candidate(w.params("b", 1, reg))
	w.do("a", a.Campaign(w.now, Campaign{}))
	w.run(ms(100))
	w.lines = nil
	lease, _ := a.Lease(w.now)
	w.do("a", a.ProposeInSync(w.now, lease.Epoch, []domain.SiteID{"a"}, 2))
	w.run(ms(100))
	w.do("a", a.ProposeInSync(w.now, lease.Epoch, []domain.SiteID{"a", "b"}, 1))
	w.down["a"] = true
	w.do("b", b.Campaign(w.now, Campaign{}))
	w.run(7 * time.Second)
	w.do("b", b.Campaign(w.now, Campaign{AcceptLoss: true, Estimate: "12 writes"}))
	w.run(ms(100))
	w.expect(`
		0.100 a -> va update 0.1.1
		0.100 a -> vb update 0.1.1
		0.100 a -> vw update 0.1.1
		0.110 a extended until 5.981
		0.110 a in sync [a] committed (2)
		0.200 a refused: in-sync request is older than one already seen
		0.200 b phase contacting
		0.205 va probe to b: busy
		0.205 vb probe to b: busy
		0.205 vw probe to b: busy
		0.210 b phase waiting
		1.840 va probe to b: busy
		1.840 vb probe to b: busy
		1.840 vw probe to b: busy
		3.475 va probe to b: busy
		3.475 vb probe to b: busy
		3.475 vw probe to b: busy
		5.110 va probe to b: busy
		5.110 vb probe to b: busy
		5.110 vw probe to b: busy
		6.245 b refused: site is not in the in-sync set
		7.210 b phase comparing views
		7.210 b -> va prepare 0.2.2
		7.210 b -> vb prepare 0.2.2
		7.210 b -> vw prepare 0.2.2
		7.220 b phase tally
		7.220 b -> va accept 0.2.2
		7.220 b -> vb accept 0.2.2
		7.220 b -> vw accept 0.2.2
		7.230 b GRANTED 0.2.2 until 13.101 in sync [b] loss accepted: 12 writes
		7.230 b phase functional
	`)
}

func TestWeightsChangeThroughBothMajorities(t *testing.T) {
	w := newWorld(t, "va", "vb", "vw", "vx", "vy")
	a := w.candidate(w.params("a", 0, threeVoters("a", "b")))
	w.do("a", a.Campaign(w.now, Campaign{}))
	w.run(ms(100))
	w.lines = nil
	w.do("a", a.ProposeConfig(w.now, weightsOf("va", "vx", "vy")))
	w.run(ms(100))
	w.expect(`
		0.100 a -> va update 0.1.1
		0.100 a -> vb update 0.1.1
		0.100 a -> vw update 0.1.1
		0.100 a -> vx update 0.1.1
		0.100 a -> vy update 0.1.1
		0.105 vx update to a: rejected
		0.105 vy update to a: rejected
		0.110 a -> vx accept 0.1.1
		0.110 a -> vy accept 0.1.1
		0.120 a extended until 5.981
		0.120 a -> va update 0.1.1
		0.120 a -> vb update 0.1.1
		0.120 a -> vw update 0.1.1
		0.120 a -> vx update 0.1.1
		0.120 a -> vy update 0.1.1
		0.130 a extended until 6.001
		0.130 a configuration 3 committed: [va vx vy]
	`)
}

func TestAHigherForceGenerationStopsTheHolder(t *testing.T) {
	w := newWorld(t, "va", "vb", "vw")
	a := w.candidate(w.params("a", 0, threeVoters("a", "b")))
	w.do("a", a.Campaign(w.now, Campaign{}))
	w.run(ms(100))
	w.lines = nil
	forced := domain.NewEpoch(0, 1, 1).NextForced(2)
	reg := Register{WE: forced, Seq: 1, InSync: []domain.SiteID{"b"}, Config: Config{Version: 2, Weights: weightsOf("vb")}}
	w.voters["vb"].Handle(w.now, Request{Verb: Accept, From: "b", Epoch: forced, Seq: 1, G: DefaultTiming().G, Reg: &reg})
	w.run(ms(1600))
	w.expect(`
		1.525 vb renew to a: rejected
		1.530 a LOST 0.1.1: quorum was forced elsewhere
		1.530 a phase waiting
	`)
}

func TestACandidateJustBootedFirstHearsAnotherSite(t *testing.T) {
	w := newWorld(t, "va", "vb", "vw")
	p := w.params("a", 0, Register{InSync: []domain.SiteID{"a"}, Config: Config{Version: 1, Weights: Weights{"va": 3, "vb": 2}}})
	p.ColdStart = true
	a := w.candidate(p)
	w.down["vb"] = true
	w.do("a", a.Campaign(w.now, Campaign{}))
	w.run(2 * time.Second)
	w.down["vb"] = false
	w.run(time.Second)
	w.expect(`
		0.000 a phase contacting
		0.500 a refused: no voter of another site heard since boot
		0.500 a phase waiting
		2.010 a phase comparing views
		2.010 a -> va prepare 0.1.1
		2.010 a -> vb prepare 0.1.1
		2.020 a phase tally
		2.020 a -> va accept 0.1.1
		2.020 a -> vb accept 0.1.1
		2.030 a GRANTED 0.1.1 until 7.901 in sync [a]
		2.030 a phase functional
	`)
}
