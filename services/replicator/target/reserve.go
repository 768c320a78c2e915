package target

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Types of a persistent reservation (SPC-4 section 5.13.8).
const (
	writeExclusive                 = 1
	exclusiveAccess                = 3
	writeExclusiveRegistrantsOnly  = 5
	exclusiveAccessRegistrantsOnly = 6
	writeExclusiveAllRegistrants   = 7
	exclusiveAccessAllRegistrants  = 8
)

// maxRegistrations bounds what initiators may have a unit remember; no cluster comes near.
const maxRegistrations = 1024

// reservations of a unit: SPC-2's RESERVE (6) and the persistent ones. They are local to the site and end with the target,
// except for what a Keeper keeps of the persistent ones. All is keyed by I_T nexus. A value that a lun shows is never
// changed: commands look at it without a lock.
type reservations struct {
	legacy     string         // nexus that holds RESERVE (6)
	list       []registration // in the order in which they were made, as reports want it
	holder     string         // nexus that holds the persistent reservation
	kind       byte           // its type, 0 for none
	generation uint32
	keep       bool // the last registration asked for persistence through power loss (APTPL)
}

// registration is the key of a nexus. allPorts says that it was made with ALL_TG_PT, which with one target port says no more.
type registration struct {
	nexus    string
	key      uint64
	allPorts bool
}

func (r *reservations) clone() *reservations {
	c := *r
	c.list = slices.Clone(r.list)
	return &c
}

func (r *reservations) allRegistrants() bool {
	return r.kind == writeExclusiveAllRegistrants || r.kind == exclusiveAccessAllRegistrants
}

func (r *reservations) registrantsOnly() bool { return r.kind >= writeExclusiveRegistrantsOnly }

func (r *reservations) find(nexus string) int {
	return slices.IndexFunc(r.list, func(g registration) bool { return g.nexus == nexus })
}

func (r *reservations) registered(nexus string) bool { return r.find(nexus) >= 0 }

// key is that of a nexus, 0 when it has none.
func (r *reservations) key(nexus string) uint64 {
	if i := r.find(nexus); i >= 0 {
		return r.list[i].key
	}
	return 0
}

// holds reports whether a nexus is (one of) the reservation's holder(s).
func (r *reservations) holds(nexus string) bool {
	return r.kind != 0 && (r.holder == nexus || r.allRegistrants() && r.registered(nexus))
}

// refuses reports whether a nexus may not do what needs a.
func (r *reservations) refuses(nexus string, a access) bool {
	if r.kind == 0 || a == accessNone || r.holds(nexus) || r.registrantsOnly() && r.registered(nexus) {
		return false
	}
	exclusive := r.kind == exclusiveAccess || r.kind == exclusiveAccessRegistrantsOnly || r.kind == exclusiveAccessAllRegistrants
	return a == accessWrite || exclusive
}

func (r *reservations) register(g registration) {
	if i := r.find(g.nexus); i >= 0 {
		r.list[i] = g
		return
	}
	r.list = append(r.list, g)
}

// unregister removes a nexus, and the reservation with its last holder; released says that it was one that other
// registrants relied on.
func (r *reservations) unregister(nexus string) (released bool) {
	r.list = slices.DeleteFunc(r.list, func(g registration) bool { return g.nexus == nexus })
	switch {
	case r.kind == 0:
	case r.allRegistrants():
		if len(r.list) == 0 {
			r.kind, r.holder = 0, ""
		} else if r.holder == nexus {
			r.holder = r.list[0].nexus // each of them holds it; one must be named
		}
	case r.holder == nexus:
		released = r.registrantsOnly()
		r.kind, r.holder = 0, ""
	}
	return released
}

// holding is a unit's reservations and who may change them.
type holding struct {
	changing sync.Mutex
	now      atomic.Pointer[reservations] // nil while there are none
	keeper   Keeper                       // nil when the unit keeps nothing
	unsure   bool                         // a Keep failed: what is kept may be older or newer than now; under changing
}

// see is what holds now; it must not be changed.
func (h *holding) see() *reservations {
	if r := h.now.Load(); r != nil {
		return r
	}
	return &reservations{}
}

// change lets f work on a copy, which holds from when what must survive a loss of power is durable. When f says no, or
// nothing could be kept, all stays as it was.
func (h *holding) change(f func(*reservations) *iscsi.Sense) (*iscsi.Sense, error) {
	h.changing.Lock()
	defer h.changing.Unlock()
	old := h.see()
	r := old.clone()
	if s := f(r); s != nil {
		return s, nil
	}
	if len(r.list) == 0 {
		r.keep = false
	}
	if err := h.persist(old, r); err != nil {
		return nil, err
	}
	h.now.Store(r)
	return nil, nil
}

// release gives up a nexus' RESERVE (6), anyone's when it is empty.
func (h *holding) release(nexus string) {
	if h.see().legacy == "" {
		return
	}
	h.setLegacy(func(r *reservations) bool {
		if nexus == "" || r.legacy == nexus {
			r.legacy = ""
		}
		return true
	})
}

// reserve is RESERVE (6) of a nexus; false when another was first, or has registered since.
func (h *holding) reserve(nexus string) bool {
	return h.setLegacy(func(r *reservations) bool {
		if r.legacy != "" && r.legacy != nexus || len(r.list) > 0 {
			return false
		}
		r.legacy = nexus
		return true
	})
}

// setLegacy changes who holds the unit by RESERVE (6). Nothing of that is kept, so a unit that cannot keep is no obstacle.
func (h *holding) setLegacy(f func(*reservations) bool) bool {
	h.changing.Lock()
	defer h.changing.Unlock()
	r := h.see().clone()
	if !f(r) {
		return false
	}
	h.now.Store(r)
	return true
}

// conflicts reports whether a reservation refuses t.
func (l *lun) conflicts(t *task) bool {
	r := l.held.now.Load()
	if r == nil || r.legacy == "" && len(r.list) == 0 {
		return false
	}
	me := t.s.nexus()
	if r.legacy != "" && r.legacy != me {
		return !t.spec.anyLUN && t.spec.op != iscsi.Release6
	}
	switch flags := t.cmd.CDB[4]; t.spec.op {
	case iscsi.Reserve6, iscsi.Release6:
		return len(r.list) > 0
	case iscsi.TestUnitReady:
		return false
	case iscsi.StartStopUnit:
		if flags&0xf1 == 0x01 { // a start, without a power condition
			return false
		}
	case iscsi.PreventAllow:
		if flags&0x03 == 0 {
			return false
		}
	}
	return r.refuses(me, t.spec.access)
}

func reservationCommands() []*command {
	list := []*command{
		{op: iscsi.Reserve6, sa: -1, bare: true, usage: "\x16\x00\x00\x00\x00\x07", run: reserve6},
		{op: iscsi.Release6, sa: -1, bare: true, usage: "\x17\x00\x00\x00\x00\x07", run: release6},
	}
	for sa := range 4 {
		list = append(list, &command{op: iscsi.PersistentReserveIn, sa: sa, bare: true, usage: "\x5e\x1f\x00\x00\x00\x00\x00\xff\xff\x07", run: reserveIn})
	}
	for sa := range outRegisterMove + 1 {
		list = append(list, &command{op: iscsi.PersistentReserveOut, sa: sa, bare: true, usage: "\x5f\x1f\xff\x00\x00\xff\xff\xff\xff\x07", prep: prepReserveOut, run: reserveOut})
	}
	return list
}

func reserve6(t *task) {
	if t.cmd.CDB[1]&0x1f != 0 {
		t.fail(*invalidField(1))
		return
	}
	if !t.lun.held.reserve(t.s.nexus()) {
		t.status = iscsi.StatusReservationConflict
	}
	t.finish()
}

// release6 gives up one's own reservation; another's stays, without an error (SPC-2 section 7.17).
func release6(t *task) {
	t.lun.held.release(t.s.nexus())
	t.finish()
}
