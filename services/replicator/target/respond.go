package target

import (
	"errors"
	"syscall"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// mayAnswer asks a unit whether it may answer: once for the answers that go out together.
func (c *conn) mayAnswer(l *lun) bool {
	if c.sure == l && c.w.Buffered() >= c.upTo {
		return true // and nothing was sent since, which may have taken its time
	}
	c.sure = nil
	if !l.gated.MayAnswer() {
		return false
	}
	c.sure, c.upTo = l, c.w.Buffered()
	return true
}

// emit writes the answer of a task: Data-In with the status in its last PDU when all went well, else a SCSI response.
func (t *task) emit(c *conn) error {
	defer t.recycle()
	if !t.mayAnswer() {
		c.kill("unit may not answer")
		t.measureAborted()
		return ErrFenced
	}
	t.measure(c.drainAt)
	if t.status == iscsi.StatusGood && len(t.in) > 0 && t.edtl(t.cmd.Read) > 0 {
		return t.emitData(c)
	}
	p := &c.pdu
	iscsi.SCSIResponse{Status: t.status, ITT: t.cmd.ITT, ExpDataSN: t.r2tSN, Residual: t.residual()}.Put(p)
	p.Data = nil
	if t.status == iscsi.StatusCheckCondition {
		p.Data = iscsi.AppendSense(c.sense[:0], t.sense)
	}
	return c.stamp(p, true)
}

func (t *task) emitData(c *conn) error {
	data := t.in
	if n := t.edtl(t.cmd.Read); len(data) > n {
		data = data[:n]
	}
	par := &t.s.par
	maxSend := int(t.s.maxSend.Load())
	p := &c.pdu
	defer func() { p.Data = nil }() // the buffer has another owner after this
	var sn uint32
	for off := 0; off < len(data); {
		n := min(maxSend, len(data)-off, par.maxBurst-off%par.maxBurst)
		end := off + n
		d := iscsi.DataIn{Final: end%par.maxBurst == 0 || end == len(data), HasStatus: end == len(data), LUN: t.cmd.LUN,
			ITT: t.cmd.ITT, TTT: iscsi.NoTag, DataSN: sn, Offset: uint32(off)}
		if d.HasStatus {
			d.Residual = t.residual()
		}
		d.Put(p)
		p.Data = data[off:end]
		if err := c.stamp(p, d.HasStatus); err != nil {
			return err
		}
		off = end
		sn++
	}
	return nil
}

// r2t asks the initiator for data. One that was sent is used again.
type r2t struct {
	iscsi.R2T
	s *session
}

// newR2T takes one that was sent, if there is one.
func (s *session) newR2T(r iscsi.R2T) *r2t {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.freeR2T) - 1
	if last < 0 {
		return &r2t{r, s}
	}
	out := s.freeR2T[last]
	s.freeR2T = s.freeR2T[:last]
	out.R2T = r
	return out
}

func (r *r2t) emit(c *conn) error {
	r.Put(&c.pdu)
	c.pdu.Data = nil
	err := c.stamp(&c.pdu, false)
	r.s.mu.Lock()
	r.s.freeR2T = append(r.s.freeR2T, r)
	r.s.mu.Unlock()
	return err
}

// discard leaves it to the collector: the session ends.
func (r *r2t) discard() {}

// residual compares what the command moved, or would have, with what the initiator said it expects.
func (t *task) residual() iscsi.Residual {
	moved, expected := len(t.in), int(t.cmd.EDTL)
	if t.cmd.Write || t.outLen > 0 {
		moved = t.outLen
	}
	if t.status != iscsi.StatusGood {
		moved = 0
	}
	if !t.cmd.Read && !t.cmd.Write {
		expected = 0
	}
	switch {
	case moved > expected:
		return iscsi.Residual{Over: true, Count: uint32(moved - expected)}
	case moved < expected:
		return iscsi.Residual{Under: true, Count: uint32(expected - moved)}
	}
	return iscsi.Residual{}
}

// senseOf is how an initiator hears of a unit's error.
func senseOf(err error, op Op) iscsi.Sense {
	var mis *MiscompareError
	if s, ok := sanitizeSense(err); ok {
		return s
	}
	switch {
	case errors.As(err, &mis):
		return iscsi.Sense{Key: iscsi.SenseMiscompare, ASC: iscsi.ASCMiscompare, Info: uint32(mis.Offset), HasInfo: true}
	case errors.Is(err, ErrReadOnly):
		return iscsi.Sense{Key: iscsi.SenseDataProtect, ASC: iscsi.ASCWriteProtected}
	case errors.Is(err, ErrNoSpace), errors.Is(err, syscall.ENOSPC):
		return iscsi.Sense{Key: iscsi.SenseDataProtect, ASC: iscsi.ASCSpaceAllocFailed}
	case op == OpRead:
		return iscsi.Sense{Key: iscsi.SenseMediumError, ASC: iscsi.ASCReadError}
	}
	return iscsi.Sense{Key: iscsi.SenseMediumError, ASC: iscsi.ASCWriteError}
}
