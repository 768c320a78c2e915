package target

import (
	"sync"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// medium is whether a removable unit's medium is in the drive, and who keeps it there. A unit that is not removable always
// has its medium. Nothing happens to the unit's data when it is ejected: it is out of reach until it is loaded again or
// the unit is served anew.
type medium struct {
	absent atomic.Bool

	mu       sync.Mutex
	prevents map[string]struct{} // nexuses whose PREVENT ALLOW MEDIUM REMOVAL said prevent
}

// hold makes a nexus prevent the removal, or not any more.
func (m *medium) hold(nexus string, prevent bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !prevent:
		delete(m.prevents, nexus)
	case m.prevents == nil:
		m.prevents = map[string]struct{}{nexus: {}}
	default:
		m.prevents[nexus] = struct{}{}
	}
}

// reset ends every nexus' prevention, as a logical unit reset does (SPC-4 section 6.15).
func (m *medium) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.prevents)
}

func (m *medium) prevented() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.prevents) > 0
}

// noMedium is what a command that needs the medium is told while it is out.
func noMedium() *iscsi.Sense {
	return &iscsi.Sense{Key: iscsi.SenseNotReady, ASC: iscsi.ASCMediumAbsentTrayOpen}
}

// withoutMedium reports whether t needs a medium that is not there.
func (t *task) withoutMedium() bool {
	return t.lun != nil && t.lun.medium.absent.Load() && !t.spec.bare
}

// startStop carries out START STOP UNIT (SBC-3 section 5.25). A stop without LOEJ flushes and leaves the unit ready, as its
// power is not the initiator's; for the same reason a power condition is granted and changes nothing, not the medium either.
func startStop(t *task) {
	cdb, m := &t.cmd.CDB, &t.lun.medium
	power, noFlush, loej, start := cdb[4]>>4, cdb[4]&0x04 != 0, cdb[4]&0x02 != 0, cdb[4]&0x01 != 0
	switch {
	case power != 0:
		t.finish()
	case loej && !t.lun.info.Removable:
		t.fail(*invalidField(4))
	case loej && m.prevented():
		t.fail(*illegal(iscsi.ASCMediumRemovalPrevented))
	case loej && start:
		if m.absent.Swap(false) {
			t.tellOthers(iscsi.ASCMediumChanged)
		}
		t.finish()
	case loej:
		t.eject(noFlush)
	case m.absent.Load():
		t.fail(*noMedium())
	case start || noFlush:
		t.finish()
	default:
		flush(t)
	}
}

// eject takes the medium out of reach first, so that nothing begins after the flush; a flush that fails leaves it in.
func (t *task) eject(noFlush bool) {
	m := &t.lun.medium
	if m.absent.Swap(true) || noFlush {
		t.finish()
		return
	}
	t.submit(Command{Op: OpFlush}, func(err error) {
		if err != nil {
			m.absent.Store(false)
		}
		t.complete(err)
	})
}

// preventAllow carries out PREVENT ALLOW MEDIUM REMOVAL, of each nexus for itself (SPC-4 section 6.15). A fixed disk grants
// it: its medium cannot be removed anyway.
func preventAllow(t *task) {
	if t.cmd.CDB[4]&0x02 != 0 {
		t.fail(*invalidField(4))
		return
	}
	if t.lun.info.Removable {
		t.lun.medium.hold(t.s.nexus(), t.cmd.CDB[4]&0x01 != 0)
	}
	t.finish()
}
