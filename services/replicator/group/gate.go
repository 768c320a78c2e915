package group

import (
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/clock"
)

// gate says whether a session may still acknowledge. Once shut, or once its deadline passed unextended, it stays shut.
type gate struct {
	now      func() clock.Time
	deadline atomic.Int64
	shut     atomic.Bool
}

func newGate(now func() clock.Time, deadline clock.Time) *gate {
	g := &gate{now: now}
	g.deadline.Store(int64(deadline))
	return g
}

// open is asked at the moment of acknowledging.
func (g *gate) open() bool {
	if g.shut.Load() {
		return false
	}
	if g.now().Before(clock.Time(g.deadline.Load())) {
		return true
	}
	g.shut.Store(true) // never extended after expiry
	return false
}

// extend moves the deadline to what the newest answer about the lease allows; false when the gate is shut already.
func (g *gate) extend(deadline clock.Time) bool {
	if !g.open() {
		return false
	}
	g.deadline.Store(int64(deadline))
	return g.open()
}

func (g *gate) close() { g.shut.Store(true) }

// leaseDeadline is when a lease ends by this machine's clock at the latest that is safe: counted from before it was asked
// for, less what two clocks may differ by.
func leaseDeadline(sent clock.Time, remainingNs int64, eps float64) clock.Time {
	return sent + clock.Time(float64(remainingNs)*(1-eps)/(1+eps))
}
