package target

import (
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// errConflict is a RESERVATION CONFLICT.
var errConflict = &iscsi.Sense{}

// notice is a unit attention that a reservation's change owes another nexus.
type notice struct {
	nexus string
	asc   uint16
}

// reserveOrder is one PERSISTENT RESERVE OUT at work on a unit's reservations.
type reserveOrder struct {
	r                          *reservations
	me                         string
	action, scope, kind        byte
	key, saKey                 uint64
	keep, allPorts, unregister bool
	specific                   bool     // SPEC_I_PT
	others                     []string // nexuses that the list names
	notices                    []notice
	removed                    map[string]bool
}

// apply changes r, or says why not.
func (o *reserveOrder) apply(r *reservations) *iscsi.Sense {
	o.r = r
	if o.action == outRegister || o.action == outRegisterIgnore {
		return o.register()
	}
	if !r.registered(o.me) || o.key != r.key(o.me) {
		return errConflict
	}
	switch o.action {
	case outReserve:
		return o.reserve()
	case outRelease:
		return o.release()
	case outClear:
		o.clear()
		return nil
	case outRegisterMove:
		return o.move()
	}
	return o.preempt()
}

// register is REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 section 5.12.7): all that it names, or nothing.
func (o *reserveOrder) register() *iscsi.Sense {
	r, registered := o.r, o.r.registered(o.me)
	if o.action == outRegister && o.key != r.key(o.me) { // the key of one that is not registered is 0
		return errConflict
	}
	if o.specific && (registered || o.saKey == 0) {
		return invalidParam(20)
	}
	if o.saKey == 0 {
		if registered && r.unregister(o.me) {
			o.tell(iscsi.ASCReservationsReleased)
		}
	} else {
		r.register(registration{o.me, o.saKey, o.allPorts})
		for _, n := range o.others {
			if n != o.me && r.registered(n) {
				return invalidParam(28)
			}
			r.register(registration{n, o.saKey, o.allPorts})
		}
	}
	if len(r.list) > maxRegistrations {
		return illegal(iscsi.ASCInsufficientRegistration)
	}
	r.keep = o.keep
	r.generation++
	return nil
}

// move is REGISTER AND MOVE (SPC-4 section 5.12.8): the reservation goes to the port the list names, which is registered for it.
func (o *reserveOrder) move() *iscsi.Sense {
	r, to := o.r, o.others[0]
	switch {
	case r.allRegistrants() || r.kind == 0 || r.holder != o.me:
		return errConflict
	case o.saKey == 0:
		return invalidParam(8)
	case to == o.me:
		return invalidParam(24)
	}
	r.register(registration{to, o.saKey, false})
	if len(r.list) > maxRegistrations {
		return illegal(iscsi.ASCInsufficientRegistration)
	}
	r.holder = to
	if o.unregister {
		r.unregister(o.me)
	}
	r.keep = o.keep
	r.generation++
	return nil
}

// tell owes a notice to every other registrant.
func (o *reserveOrder) tell(asc uint16) {
	for _, g := range o.r.list {
		if g.nexus != o.me {
			o.notices = append(o.notices, notice{g.nexus, asc})
		}
	}
}

func validKind(kind byte) bool {
	return kind <= exclusiveAccessAllRegistrants && 1<<kind&(1<<1|1<<3|1<<5|1<<6|1<<7|1<<8) != 0
}

func (o *reserveOrder) validType() *iscsi.Sense {
	if o.scope != 0 || !validKind(o.kind) {
		return invalidField(2)
	}
	return nil
}

func (o *reserveOrder) reserve() *iscsi.Sense {
	if s := o.validType(); s != nil {
		return s
	}
	if o.r.kind == 0 {
		o.r.kind, o.r.holder = o.kind, o.me
		return nil
	}
	if !o.r.holds(o.me) || o.kind != o.r.kind {
		return errConflict
	}
	return nil
}

func (o *reserveOrder) release() *iscsi.Sense {
	if !o.r.holds(o.me) {
		return nil
	}
	if o.scope != 0 || o.kind != o.r.kind {
		return illegal(iscsi.ASCInvalidRelease)
	}
	if o.r.registrantsOnly() {
		o.tell(iscsi.ASCReservationsReleased)
	}
	o.r.kind, o.r.holder = 0, ""
	return nil
}

func (o *reserveOrder) clear() {
	o.tell(iscsi.ASCReservationsPreempted)
	o.r.list, o.r.kind, o.r.holder = nil, 0, ""
	o.r.generation++
}

// preempt removes registrations by key and takes the reservation over when its holder is among them (SPC-4 section 5.12.11.4).
func (o *reserveOrder) preempt() *iscsi.Sense {
	if s := o.validType(); s != nil {
		return s
	}
	r := o.r
	everyone := r.kind != 0 && r.allRegistrants() && o.saKey == 0
	takeOver := everyone || r.kind != 0 && !r.allRegistrants() && r.key(r.holder) == o.saKey
	if o.saKey == 0 && !everyone {
		return invalidParam(8)
	}
	o.removed = map[string]bool{}
	found := takeOver
	was := r.kind
	for _, g := range slices.Clone(r.list) {
		if !everyone && g.key != o.saKey {
			continue
		}
		found = true
		if g.nexus == o.me && takeOver {
			continue
		}
		r.unregister(g.nexus)
		o.removed[g.nexus] = true
		o.notices = append(o.notices, notice{g.nexus, iscsi.ASCRegistrationsPreempted})
	}
	if !found {
		return errConflict
	}
	if takeOver {
		r.kind, r.holder = o.kind, o.me
		if was != o.kind && was >= writeExclusiveRegistrantsOnly {
			o.tell(iscsi.ASCReservationsReleased)
		}
	}
	r.generation++
	return nil
}
