package target

import (
	"encoding/binary"
	"errors"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Sanitization says how a unit is to be sanitized (SBC-4, SANITIZE command).
type Sanitization struct {
	// Pattern fills each block, again and again; nil erases the blocks (BLOCK ERASE), which read as zeroes then.
	Pattern []byte
	// Passes is how often Pattern is written, Invert that every second time has its bits the other way round.
	Passes int
	Invert bool
	// MayLeave says that a failure may be left without a sanitize that succeeds (AUSE).
	MayLeave bool
}

// SanitizeState is where a unit is with it.
type SanitizeState struct {
	// Running: nothing else is carried out. Progress is how far it is, of 65,536.
	Running  bool
	Progress uint16
	// Failed: nothing is carried out until a sanitize succeeds or, with MayLeave, the failure is left.
	Failed, MayLeave bool
}

// Sanitizer is a unit whose content can be made unreadable as a whole. It offers that when UnitInfo.Sanitize says so.
type Sanitizer interface {
	// Sanitize begins one. begun is called once when it is durable that it began: it goes on then through resets, the end of
	// sessions and a loss of power. done is called once, after begun or in place of it. What the unit is asked to do meanwhile
	// is ErrSanitizing. An error that comes in place of begun changed nothing; after a later one the unit has failed.
	Sanitize(how Sanitization, begun func(), done func(error))
	// SanitizeState is asked in the path of every command.
	SanitizeState() SanitizeState
	// LeaveSanitize leaves a failure that may be left, durably on return.
	LeaveSanitize() error
}

// Service actions of SANITIZE.
const (
	sanitizeOverwrite = 0x01
	sanitizeErase     = 0x02
	sanitizeLeave     = 0x1f
)

// overwriteHeader is the length of the parameter list before the pattern.
const overwriteHeader = 4

func sanitizeCommands() []*command {
	offered := func(l *lun) bool { return l.sanitizer != nil }
	const usage = "\x48\xbf\x00\x00\x00\x00\x00\xff\xff\x07"
	return []*command{
		{op: iscsi.Sanitize, sa: sanitizeOverwrite, usage: usage, access: accessWrite, offered: offered, mends: true, prep: prepOverwrite, run: overwrite},
		{op: iscsi.Sanitize, sa: sanitizeErase, usage: usage, access: accessWrite, offered: offered, mends: true, prep: prepErase, run: erase},
		{op: iscsi.Sanitize, sa: sanitizeLeave, usage: usage, access: accessWrite, offered: offered, mends: true, prep: prepLeave, run: leaveSanitize},
	}
}

// sanitary is what a unit tells a command that it cannot carry out because of a sanitize, nil when there is no such thing.
func (l *lun) sanitary(c *command) *iscsi.Sense {
	if l == nil || l.sanitizer == nil || c.always {
		return nil
	}
	switch s := l.sanitizer.SanitizeState(); {
	case s.Running:
		return &iscsi.Sense{Key: iscsi.SenseNotReady, ASC: iscsi.ASCSanitizeInProgress, HasProgress: true, Progress: s.Progress}
	case s.Failed && !c.mends:
		return &iscsi.Sense{Key: iscsi.SenseMediumError, ASC: iscsi.ASCSanitizeFailed}
	}
	return nil
}

// prepSanitize checks what is common to the service actions: bytes that are reserved, the length of the parameter list.
func (t *task) prepSanitize(least, most int) *iscsi.Sense {
	cdb := &t.cmd.CDB
	if cdb[1]&0x40 != 0 {
		return invalidField(1)
	}
	for at := 2; at < 7; at++ {
		if cdb[at] != 0 {
			return invalidField(at)
		}
	}
	n := int(binary.BigEndian.Uint16(cdb[7:]))
	if n < least || n > most || n > 0 && t.edtl(t.cmd.Write) < n {
		return invalidField(7)
	}
	t.outLen = n
	return t.writable()
}

func prepOverwrite(t *task) *iscsi.Sense {
	return t.prepSanitize(overwriteHeader+1, overwriteHeader+BlockSize)
}

func prepErase(t *task) *iscsi.Sense { return t.prepSanitize(0, 0) }

func prepLeave(t *task) *iscsi.Sense { return t.prepSanitize(0, 0) }

// overwrite reads the parameter list. What is wrong with it is told of the CDB, as libiscsi's suite wants it.
func overwrite(t *task) {
	list := t.data
	how := Sanitization{Passes: int(list[0] & 0x1f), Invert: list[0]&0x80 != 0}
	n := int(binary.BigEndian.Uint16(list[2:]))
	if list[0]&0x60 != 0 || list[1] != 0 || how.Passes == 0 || n == 0 || n != len(list)-overwriteHeader {
		t.fail(*invalidField(7))
		return
	}
	how.Pattern = append([]byte{}, list[overwriteHeader:]...)
	t.sanitize(how)
}

func erase(t *task) { t.sanitize(Sanitization{}) }

// sanitize begins, and answers when it has begun (IMMED) or ended. A task that waits for the end is no longer with the unit:
// whoever aborts it, or its session, does not wait for it, and the sanitize goes on.
func (t *task) sanitize(how Sanitization) {
	how.MayLeave = t.cmd.CDB[1]&0x20 != 0
	if s := t.lun.sanitizer.SanitizeState(); how.MayLeave && s.Failed && !s.MayLeave {
		t.fail(*invalidField(1)) // what failed restricted is not left by way of one that is not
		return
	}
	immediate := t.cmd.CDB[1]&0x80 != 0
	began, waits := false, false
	t.lun.sanitizer.Sanitize(how, func() {
		began = true
		if waits = !immediate && t.park(); !waits {
			t.finish()
		}
	}, func(err error) {
		if !began || waits && t.unpark() {
			t.complete(err)
		}
	})
}

// park lets a running task be aborted without waiting for it; false when it was aborted.
func (t *task) park() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if !t.aborted {
		t.state = parked
	}
	return !t.aborted
}

// unpark takes the task back for its answer; false when it was aborted meanwhile, and is gone.
func (t *task) unpark() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if !t.aborted {
		t.state = running
	}
	return !t.aborted
}

// leaveSanitize is EXIT FAILURE MODE; without a failure it does nothing.
func leaveSanitize(t *task) {
	switch s := t.lun.sanitizer.SanitizeState(); {
	case s.Running:
		t.fail(*t.lun.sanitary(t.spec))
	case s.Failed && !s.MayLeave:
		t.fail(*invalidField(1))
	case s.Failed:
		t.complete(t.lun.sanitizer.LeaveSanitize())
	default:
		t.finish()
	}
}

// sanitizeSense is how an initiator hears of a command that met a sanitize in the unit; false for any other error.
func sanitizeSense(err error) (iscsi.Sense, bool) {
	switch {
	case errors.Is(err, ErrSanitizing):
		return iscsi.Sense{Key: iscsi.SenseNotReady, ASC: iscsi.ASCSanitizeInProgress}, true
	case errors.Is(err, ErrSanitizeFailed):
		return iscsi.Sense{Key: iscsi.SenseMediumError, ASC: iscsi.ASCSanitizeFailed}, true
	}
	return iscsi.Sense{}, false
}
