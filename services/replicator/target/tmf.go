package target

import (
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// settle runs a function once everything it waits for has ended. It starts with one hold, its maker's.
type settle struct {
	left atomic.Int64
	then func()
}

func newSettle(then func()) *settle {
	w := &settle{then: then}
	w.left.Store(1)
	return w
}

func (w *settle) settle() {
	if w.left.Add(-1) == 0 {
		w.then()
	}
}

// abort ends the tasks that match: one that waits for data is gone at once, one that is with the unit is answered no
// more, and w waits for it. It returns how many there were.
func (s *session) abort(w *settle, match func(*task) bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for itt, t := range s.tasks {
		if !match(t) {
			continue
		}
		n++
		t.aborted = true
		if t.state == running {
			w.left.Add(1)
			t.waiters = append(t.waiters, w)
			continue
		}
		t.measureAborted()
		// The reader may be at its data this moment: the memory is left to the collector.
		delete(s.tasks, itt)
		s.giveBack(t)
		if t.cmd.Immediate {
			s.immediate--
		} else {
			s.inFlight--
		}
	}
	return n
}

// abortAt ends the tasks at a unit but one, and has w wait for what copies have in flight there by way of this session, too.
func (s *session) abortAt(w *settle, l *lun, but *task) int {
	s.awaitVisits(w, l)
	return s.abort(w, func(t *task) bool { return t.lun == l && t != but })
}

// manage takes a place for a task management function, which each waits for what it ends; false when too many do.
func (s *session) manage(m iscsi.TaskMgmt, p *iscsi.PDU) bool {
	switch {
	case m.ITT == iscsi.NoTag:
		s.conn.send(newReject(p, iscsi.RejectInvalidPDUField), 0)
	case s.managing.Load() < int64(s.srv.cfg.QueueDepth):
		s.managing.Add(1)
		return true
	case m.Immediate:
		s.conn.send(newReject(p, iscsi.RejectImmediate), 0)
	default:
		s.conn.send(&reply{build: func(p *iscsi.PDU) { iscsi.TaskMgmtResponse{Response: iscsi.TMFunctionRejected, ITT: m.ITT}.Put(p) }}, 0)
	}
	return false
}

// taskMgmt carries out a task management function; the answer follows the end of all it concerns.
func (s *session) taskMgmt(m iscsi.TaskMgmt, p *iscsi.PDU) {
	if !s.manage(m, p) {
		return
	}
	rsp := iscsi.TMComplete
	reset := false
	w := newSettle(func() {
		s.managing.Add(-1)
		s.conn.send(&reply{build: func(p *iscsi.PDU) { iscsi.TaskMgmtResponse{Response: rsp, ITT: m.ITT}.Put(p) }}, 0)
		if reset {
			s.tgt.coldReset()
		}
	})
	n, known := iscsi.DecodeLUN(m.LUN)
	l := s.tgt.luns[n]
	needLUN := m.Function == iscsi.AbortTask || m.Function == iscsi.AbortTaskSet || m.Function == iscsi.ClearTaskSet || m.Function == iscsi.LogicalUnitReset
	if needLUN && (!known || l == nil) {
		rsp = iscsi.TMNoLUN
		w.settle()
		return
	}
	switch m.Function {
	case iscsi.AbortTask:
		if s.abort(w, func(t *task) bool { return t.cmd.ITT == m.RefITT && t.lun == l }) == 0 {
			rsp = iscsi.TMNoTask
		}
	case iscsi.AbortTaskSet:
		s.abortAt(w, l, nil)
	case iscsi.ClearTaskSet:
		s.clearTaskSet(w, l)
	case iscsi.LogicalUnitReset:
		s.tgt.reset(w, l, iscsi.ASCDeviceReset)
	case iscsi.TargetWarmReset, iscsi.TargetColdReset:
		for _, each := range s.tgt.luns {
			s.tgt.reset(w, each, iscsi.ASCBusReset)
		}
		reset = m.Function == iscsi.TargetColdReset
	case iscsi.TaskReassign:
		rsp = iscsi.TMNoReassign
	default:
		rsp = iscsi.TMNotSupported
	}
	w.settle()
}

// clearTaskSet ends the tasks of every session; those of others hear why theirs got no answer (SAM-5 section 5.6, with TAS 0).
func (s *session) clearTaskSet(w *settle, l *lun) {
	for _, ss := range s.tgt.list() {
		if ss.abortAt(w, l, nil) > 0 && ss != s {
			ss.addUA(l.number, iscsi.ASCCommandsCleared)
		}
	}
}

// reset is a LOGICAL UNIT RESET: all tasks of all sessions end, SPC-2 reservations and mode parameters too, and every
// session hears of it, the one that asked included (SAM-5 section 6.3.3).
func (t *tgt) reset(w *settle, l *lun, asc uint16) {
	for _, ss := range t.list() {
		ss.abortAt(w, l, nil)
	}
	l.reset()
	for _, ss := range t.list() {
		ss.addUA(l.number, asc)
	}
}

// coldReset asks every session's connection to end after what is queued.
func (t *tgt) coldReset() {
	for _, ss := range t.list() {
		ss.conn.send(&reply{last: true, free: false, build: func(p *iscsi.PDU) { iscsi.Async{Event: iscsi.AsyncDropAll}.Put(p) }}, 0)
	}
}
