package target

import (
	"encoding/binary"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Service actions of PERSISTENT RESERVE OUT.
const (
	outRegister        = 0
	outReserve         = 1
	outRelease         = 2
	outClear           = 3
	outPreempt         = 4
	outPreemptAbort    = 5
	outRegisterIgnore  = 6
	outRegisterMove    = 7
	reserveOutParamLen = 24
	maxReserveOutLen   = 64 << 10
)

// Flags of its parameter list.
const (
	flagAPTPL    = 0x01
	flagAllPorts = 0x04
	flagSpecIPT  = 0x08
	flagUnreg    = 0x02 // of REGISTER AND MOVE, in another byte
)

// prepReserveOut checks the length of the list: only a REGISTER with SPEC_I_PT and REGISTER AND MOVE have more to say.
func prepReserveOut(t *task) *iscsi.Sense {
	n := binary.BigEndian.Uint32(t.cmd.CDB[5:])
	action := t.cmd.CDB[1] & 0x1f
	longer := action == outRegister || action == outRegisterMove
	if n < reserveOutParamLen || n > maxReserveOutLen || n > reserveOutParamLen && !longer {
		return illegal(iscsi.ASCParameterListLength)
	}
	t.outLen = int(n)
	return nil
}

// reserveOut carries out PERSISTENT RESERVE OUT (SPC-4 section 6.16).
func reserveOut(t *task) {
	if len(t.data) < t.outLen {
		t.fail(*illegal(iscsi.ASCParameterListLength))
		return
	}
	o := reserveOrder{me: t.s.nexus(), action: t.cmd.CDB[1] & 0x1f, scope: t.cmd.CDB[2] >> 4, kind: t.cmd.CDB[2] & 0xf,
		key: binary.BigEndian.Uint64(t.data), saKey: binary.BigEndian.Uint64(t.data[8:])}
	sense := t.reserveList(&o)
	var err error
	if sense == nil {
		sense, err = t.lun.held.change(o.apply)
	}
	switch {
	case err != nil:
		t.s.srv.log.Error("a persistent reservation was refused: it could not be kept; see to the volume's folder",
			"target", t.s.tgt.iqn, "lun", t.lun.number, "error", err)
		t.fail(iscsi.Sense{Key: iscsi.SenseHardwareError, ASC: iscsi.ASCInternalFailure})
	case sense == errConflict:
		t.status = iscsi.StatusReservationConflict
		t.finish()
	case sense != nil:
		t.fail(*sense)
	default:
		t.notify(&o)
	}
}

// reserveList reads what the parameter list says besides the keys.
func (t *task) reserveList(o *reserveOrder) *iscsi.Sense {
	b := t.data
	if o.action == outRegisterMove {
		o.unregister, o.keep = b[17]&flagUnreg != 0, b[17]&flagAPTPL != 0
		if binary.BigEndian.Uint16(b[18:]) != relativePort {
			return invalidParam(18)
		}
		ids := b[24:]
		if uint64(binary.BigEndian.Uint32(b[20:])) != uint64(len(ids)) {
			return invalidParam(20)
		}
		name, port, rest, err := parseTransportID(ids)
		if err != nil || !port || len(rest) > 0 { // the reservation moves to one port
			return invalidParam(24)
		}
		o.others = []string{name}
	} else if o.action == outRegister || o.action == outRegisterIgnore {
		o.keep, o.allPorts, o.specific = b[20]&flagAPTPL != 0, b[20]&flagAllPorts != 0, b[20]&flagSpecIPT != 0
		if s := t.registerList(o); s != nil {
			return s
		}
	}
	if o.keep && t.lun.held.keeper == nil {
		return invalidParam(map[bool]int{true: 17, false: 20}[o.action == outRegisterMove])
	}
	return nil
}

// registerList reads the TransportIDs of a REGISTER with SPEC_I_PT.
func (t *task) registerList(o *reserveOrder) *iscsi.Sense {
	b := t.data
	if !o.specific {
		if len(b) > reserveOutParamLen {
			return illegal(iscsi.ASCParameterListLength)
		}
		return nil
	}
	if o.action == outRegisterIgnore {
		return invalidParam(20)
	}
	if len(b) < 28 || uint64(binary.BigEndian.Uint32(b[24:])) != uint64(len(b)-28) {
		return illegal(iscsi.ASCParameterListLength)
	}
	for ids := b[28:]; len(ids) > 0; {
		at := len(b) - len(ids)
		name, port, rest, err := parseTransportID(ids)
		if err != nil {
			return invalidParam(at)
		}
		named := []string{name}
		if !port {
			if named = t.s.tgt.portsOf(name); len(named) == 0 {
				return invalidParam(at)
			}
		}
		o.others = append(o.others, named...)
		ids = rest
	}
	slices.Sort(o.others)
	o.others = slices.Compact(o.others)
	return nil
}

// portsOf is every nexus of an initiator that is logged in.
func (t *tgt) portsOf(initiator string) []string {
	var out []string
	for _, ss := range t.list() {
		if n := ss.nexus(); n == nexusOf(initiator, ss.isid) {
			out = append(out, n)
		}
	}
	return out
}

// notify raises the unit attentions that are owed, and ends the tasks of those who were preempted before it answers. Whoever
// is preempted with abort prevents no removal of the medium any more (SPC-4 section 6.15).
func (t *task) notify(o *reserveOrder) {
	if o.action == outPreemptAbort {
		for n := range o.removed {
			t.lun.medium.hold(n, false)
		}
	}
	w := newSettle(t.finish)
	for _, ss := range t.s.tgt.list() {
		n := ss.nexus()
		for _, owed := range o.notices {
			if owed.nexus == n && ss != t.s {
				ss.addUA(t.lun.number, owed.asc)
			}
		}
		if o.action == outPreemptAbort && o.removed[n] {
			ss.abortAt(w, t.lun, t)
		}
	}
	w.settle()
}
