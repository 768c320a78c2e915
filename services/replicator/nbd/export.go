package nbd

import (
	"fmt"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// FastZeroer is a unit that knows what zeroing costs. FastZero says whether OpZero, or OpUnmap when hole is set, always is much
// faster than writing the zeroes; clients are told, and then zero a whole disk before they fill it.
type FastZeroer interface{ FastZero(hole bool) bool }

// export is one unit under its name, and the connections to it.
type export struct {
	name     string
	unit     target.Unit
	gated    target.Gated  // nil when the unit is not
	mapper   target.Mapper // nil when the unit is not
	meter    target.Meter  // nil when the unit is not measured
	fastZero bool
	fastHole bool

	mu      sync.Mutex
	removed bool
	conns   map[*conn]struct{}
}

func newExport(name string, u target.Unit) *export {
	e := &export{name: name, unit: u, conns: map[*conn]struct{}{}}
	e.gated, _ = u.(target.Gated)
	e.mapper, _ = u.(target.Mapper)
	if m, ok := u.(target.Metered); ok {
		e.meter = m.Meter()
	}
	if f, ok := u.(FastZeroer); ok {
		e.fastZero, e.fastHole = f.FastZero(false), f.FastZero(true)
	}
	return e
}

func (e *export) mayAnswer() bool { return e.gated == nil || e.gated.MayAnswer() }

// enter adds a connection, which drop then waits for.
func (e *export) enter(c *conn) error {
	if !e.mayAnswer() {
		return fmt.Errorf("open export %s: %w", e.name, target.ErrFenced)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.removed {
		return fmt.Errorf("open export %s: %w", e.name, domain.ErrNotFound)
	}
	e.conns[c] = struct{}{}
	return nil
}

func (e *export) leave(c *conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.conns, c)
}

// drop kills the connections there are, lets in no others, and waits for each to be settled.
func (e *export) drop() {
	e.mu.Lock()
	e.removed = true
	there := make([]*conn, 0, len(e.conns))
	for c := range e.conns {
		there = append(there, c)
	}
	e.mu.Unlock()
	for _, c := range there {
		c.kill("dropped")
	}
	for _, c := range there {
		<-c.gone
	}
}

// flags are the transmission flags (what a client may ask for).
func (e *export) flags(info *target.UnitInfo, structured bool) uint16 {
	f := uint16(txHasFlags | txSendFlush | txSendFUA | txCanMultiConn | txSendCache)
	if structured {
		f |= txSendDF
	}
	if info.ReadOnly {
		return f | txReadOnly
	}
	f |= txSendWriteZeroes
	if info.ThinProvisioned {
		f |= txSendTrim
	}
	if e.fastZero || e.fastHole {
		f |= txSendFastZero
	}
	return f
}
