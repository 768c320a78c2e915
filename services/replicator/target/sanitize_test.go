package target

import (
	"errors"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// sanUnit is a unit whose sanitize begins at once and ends when the test says so.
type sanUnit struct {
	*memUnit
	sync.Mutex
	how   Sanitization
	state SanitizeState
	done  func(error)
	left  int
}

func (u *sanUnit) Sanitize(how Sanitization, begun func(), done func(error)) {
	u.Lock()
	u.how, u.done, u.state = how, done, SanitizeState{Running: true, Progress: 0x1234}
	u.Unlock()
	begun()
}

func (u *sanUnit) SanitizeState() SanitizeState {
	u.Lock()
	defer u.Unlock()
	return u.state
}

func (u *sanUnit) LeaveSanitize() error {
	u.Lock()
	defer u.Unlock()
	u.left++
	u.state = SanitizeState{}
	return nil
}

func (u *sanUnit) end(err error, after SanitizeState) {
	u.Lock()
	u.state = after
	done := u.done
	u.Unlock()
	done(err)
}

func newSanitizing(t *testing.T) (*bench, *sanUnit) {
	t.Helper()
	b := newBench(t, Config{}, nil)
	if err := b.srv.RemoveTarget(testIQN); err != nil {
		t.Fatal(err)
	}
	b.unit.info.Sanitize = true
	u := &sanUnit{memUnit: b.unit}
	if err := b.srv.AddTarget(testIQN, map[int]Unit{0: u}, nil); err != nil {
		t.Fatal(err)
	}
	return b, u
}

const immedBit, auseBit = 0x80, 0x20

func sanitizeCDB(flags byte, n uint16) iscsi.CDB {
	return iscsi.CDB{0: iscsi.Sanitize, 1: flags, 7: byte(n >> 8), 8: byte(n)}
}

func overwriteList(first byte, pattern ...byte) []byte {
	return append([]byte{first, 0, byte(len(pattern) >> 8), byte(len(pattern))}, pattern...)
}

func TestWhileAUnitIsSanitizedOnlyItsStateIsTold(t *testing.T) {
	b, u := newSanitizing(t)
	one, two := b.login(), b.another()
	one.put(sanitizeCDB(immedBit|auseBit|sanitizeOverwrite, 6), overwriteList(0x83, 1, 2)).want(t, iscsi.StatusGood)
	if how := u.how; string(how.Pattern) != "\x01\x02" || how.Passes != 3 || !how.Invert || !how.MayLeave {
		t.Errorf("%+v", how)
	}
	for _, c := range []*client{one, two} {
		for _, cdb := range []iscsi.CDB{iscsi.TestUnitReadyCDB(), iscsi.ReadCapacity16CDB(32), {0: iscsi.StartStopUnit, 4: 3}, {0: iscsi.ModeSense6, 2: 0x3f, 4: 255},
			iscsi.Read16CDB(0, 1), sanitizeCDB(sanitizeErase, 0), sanitizeCDB(sanitizeLeave, 0)} {
			r := c.do(cdb, 512)
			r.wantSense(t, iscsi.SenseNotReady, iscsi.ASCSanitizeInProgress)
			if !r.sense.HasProgress || r.sense.Progress != 0x1234 {
				t.Errorf("%02x: %+v", cdb[0], r.sense)
			}
		}
		r := c.do(iscsi.CDB{0: iscsi.RequestSense, 4: 18}, 18)
		r.want(t, iscsi.StatusGood)
		if s, err := iscsi.ParseSense(r.data); err != nil || s.ASC != iscsi.ASCSanitizeInProgress || s.Progress != 0x1234 {
			t.Errorf("%+v %v", s, err)
		}
		c.do(iscsi.InquiryCDB(96), 96).want(t, iscsi.StatusGood)
	}
	u.end(nil, SanitizeState{})
	one.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}

func TestASanitizeThatFailedIsToldAndLeftOnlyWhereThatWasAllowed(t *testing.T) {
	b, u := newSanitizing(t)
	c := b.login()
	for _, may := range []bool{false, true} {
		flags := byte(immedBit | sanitizeErase)
		if may {
			flags |= auseBit
		}
		if u.SanitizeState().Failed {
			c.do(sanitizeCDB(flags, 0), 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB) // restricted it stays
			u.LeaveSanitize()
		}
		c.do(sanitizeCDB(flags, 0), 0).want(t, iscsi.StatusGood)
		u.end(ErrSanitizeFailed, SanitizeState{Failed: true, MayLeave: may})
		c.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseMediumError, iscsi.ASCSanitizeFailed)
		if may {
			c.do(sanitizeCDB(sanitizeLeave, 0), 0).want(t, iscsi.StatusGood)
			c.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
		} else {
			c.do(sanitizeCDB(sanitizeLeave, 0), 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB)
		}
	}
}

func TestSanitizeRefusesWhatItDoesNotKnow(t *testing.T) {
	b, u := newSanitizing(t)
	c := b.login()
	for name, r := range map[string]result{
		"cryptographic erase":     c.do(sanitizeCDB(3, 0), 0),
		"a list for an erase":     c.put(sanitizeCDB(sanitizeErase, 8), make([]byte, 8)),
		"no pattern":              c.put(sanitizeCDB(sanitizeOverwrite, 4), overwriteList(1)),
		"no pass":                 c.put(sanitizeCDB(sanitizeOverwrite, 5), overwriteList(0, 1)),
		"a pattern of other size": c.put(sanitizeCDB(sanitizeOverwrite, 6), append(overwriteList(1, 1), 0)),
		"more than a block":       c.put(sanitizeCDB(sanitizeOverwrite, 517), make([]byte, 517)),
		"less than it says":       c.put(sanitizeCDB(sanitizeOverwrite, 6), overwriteList(1, 1)),
	} {
		t.Run(name, func(t *testing.T) { r.wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidFieldInCDB) })
	}
	if u.done != nil {
		t.Error("a sanitize began")
	}
	plain := newBench(t, Config{}, nil).login()
	plain.do(sanitizeCDB(sanitizeErase, 0), 0).wantSense(t, iscsi.SenseIllegalRequest, iscsi.ASCInvalidOpcode)
}

func TestOneThatWaitsForASanitizeMayGoAndTheSanitizeGoesOn(t *testing.T) {
	b, u := newSanitizing(t)
	c := b.login()
	c.send(c.command(sanitizeCDB(sanitizeErase, 0), 0, false), nil)
	c.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseNotReady, iscsi.ASCSanitizeInProgress)
	if err := b.srv.DropSessions(testIQN); err != nil { // it does not wait for the end
		t.Fatal(err)
	}
	again := b.login()
	again.do(iscsi.TestUnitReadyCDB(), 0).wantSense(t, iscsi.SenseNotReady, iscsi.ASCSanitizeInProgress)
	u.end(errors.Join(ErrSanitizeFailed), SanitizeState{})
	again.do(iscsi.TestUnitReadyCDB(), 0).want(t, iscsi.StatusGood)
}
