package target

import (
	"encoding/hex"
	"strings"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

const (
	vendor   = "HOLDFAST"
	revision = "0.1 "

	maxUnmapExtents = 256
	maxUnmapBlocks  = 1 << 20 // 512 MiB
	maxSameBlocks   = 1 << 15 // 16 MiB
	maxCASBlocks    = 255
)

// lun is a unit as initiators see it: the unit and the SCSI state around it, which ends with the target.
type lun struct {
	of     *tgt
	number int
	unit   Unit
	gated  Gated  // nil when the unit is not
	mapper Mapper // nil when the unit is not
	meter  Meter  // nil when the unit is not measured

	sanitizer Sanitizer // nil when the unit does not offer it
	info      UnitInfo
	blocks    atomic.Uint64 // its size now; it may grow while it is served (Resizer)
	swp       atomic.Bool   // software write protect, of the control mode page

	medium medium
	held   holding
}

func newLUN(of *tgt, n int, u Unit) (*lun, error) {
	l := &lun{of: of, number: n, unit: u, info: u.Info()}
	l.gated, _ = u.(Gated)
	l.mapper, _ = u.(Mapper)
	if l.info.Sanitize {
		l.sanitizer, _ = u.(Sanitizer)
	}
	if m, ok := u.(Metered); ok {
		l.meter = m.Meter()
	}
	l.blocks.Store(uint64(l.info.SizeBytes) / BlockSize)
	return l, l.held.recall(u)
}

// readOnly is asked anew each time: a unit may become so.
func (l *lun) readOnly() bool { return l.swp.Load() || l.unit.Info().ReadOnly }

// reset is what a LOGICAL UNIT RESET does besides ending tasks.
func (l *lun) reset() {
	l.swp.Store(false)
	l.medium.reset()
	l.held.release("")
}

// nexusLost ends what depends on a session.
func (l *lun) nexusLost(s *session) {
	l.medium.hold(s.nexus(), false)
	l.held.release(s.nexus())
}

func pad(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s + strings.Repeat(" ", n-len(s))
}

// ascii replaces what INQUIRY must not carry.
func ascii(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '_'
		}
		return r
	}, s)
}

func (l *lun) serial() string {
	s := ascii(l.info.Serial)
	if len(s) > 36 {
		s = s[:36]
	}
	return s
}

// t10 is the T10 vendor designator. It carries the NAA, which differs per site, so that it too never makes two sites'
// copies look like one unit.
func (l *lun) t10() string { return vendor + hex.EncodeToString(l.info.NAA[:]) }

// lookup finds what a command is about and checks what can be checked before its data: unit, opcode, unit attention,
// reservation, and the fields that say how much data there is. A nil sense lets it go on, unless t.failed is set.
func (t *task) lookup() *iscsi.Sense {
	cdb := &t.cmd.CDB
	if n, ok := iscsi.DecodeLUN(t.cmd.LUN); ok {
		t.lun = t.s.tgt.luns[n]
	}
	spec, sense := t.s.srv.commands.find(t.lun, cdb)
	if t.lun == nil && (spec == nil || !spec.anyLUN) {
		return &iscsi.Sense{Key: iscsi.SenseIllegalRequest, ASC: iscsi.ASCLUNotSupported}
	}
	if t.lun != nil && (spec == nil || !spec.quiet) {
		if ua, ok := t.s.takeUA(t.lun.number); ok {
			told := ua // a variable of its own, since only this one need outlive the call
			return &told
		}
	}
	if spec == nil {
		return sense
	}
	t.spec = spec
	if t.lun != nil && t.lun.conflicts(t) {
		t.status, t.failed = iscsi.StatusReservationConflict, true
		return nil
	}
	if s := t.lun.sanitary(spec); s != nil {
		return s
	}
	if t.withoutMedium() {
		return noMedium()
	}
	if spec.prep != nil {
		return spec.prep(t)
	}
	return nil
}

// invalidField refuses a byte of the CDB.
func invalidField(at int) *iscsi.Sense {
	return &iscsi.Sense{Key: iscsi.SenseIllegalRequest, ASC: iscsi.ASCInvalidFieldInCDB, HasField: true, InCDB: true, FieldPointer: uint16(at)}
}

// invalidParam refuses a byte of the parameter list.
func invalidParam(at int) *iscsi.Sense {
	return &iscsi.Sense{Key: iscsi.SenseIllegalRequest, ASC: iscsi.ASCInvalidFieldInParams, HasField: true, FieldPointer: uint16(at)}
}

func illegal(asc uint16) *iscsi.Sense { return &iscsi.Sense{Key: iscsi.SenseIllegalRequest, ASC: asc} }
