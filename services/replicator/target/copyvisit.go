package target

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// visit is a part of a copy at one unit: while it lasts it is in flight in the session by which the unit is reached, as that
// session's own commands are. The session's end, and with it the removal of its target, waits for it, and so does the answer to a
// reset or a preemption.
type visit struct {
	s       *session
	lun     *lun
	waiters []*settle // under s.mu
}

// errUnreachable is a unit that a copy may not, or cannot, reach any more.
var errUnreachable = fmt.Errorf("the copy manager does not reach the unit: %w", ErrMedium)

// reaches is the session by which a copy reaches a unit: the one that asked for the copy, or one that the same initiator has at the
// unit's target with the same credentials, so that nobody has a unit copied that he may not log in to. nil: there is none, or
// all that there are are kept from the unit.
func (t *task) reaches(l *lun, a access) *session {
	if l.of == t.s.tgt {
		if l.reachable(t, t.s, a) {
			return t.s
		}
		return nil
	}
	for _, ss := range l.of.list() {
		if ss.initiator == t.s.initiator && ss.sameCredentials(t.s) && l.reachable(t, ss, a) {
			return ss
		}
	}
	return nil
}

// sameCredentials reports whether two sessions logged in as the same user with the same secret, or both without any.
func (s *session) sameCredentials(other *session) bool {
	return s.user == other.user && subtle.ConstantTimeCompare(s.secret, other.secret) == 1
}

// reachable reports whether neither a reservation nor the medium's state keeps a session from a unit.
func (l *lun) reachable(t *task, ss *session, a access) bool {
	if l.medium.absent.Load() || l.sanitary(t.spec) != nil || a == accessWrite && l.readOnly() {
		return false
	}
	r, me := l.held.now.Load(), ss.nexus()
	return r == nil || (r.legacy == "" || r.legacy == me) && !r.refuses(me, a)
}

// visit begins a part of a copy at a unit, which the end of the next command given to the unit ends; false when the unit is not to be
// reached.
func (t *task) visit(l *lun, a access) bool {
	ss := t.reaches(l, a)
	if ss == nil {
		return false
	}
	v := &visit{s: ss, lun: l}
	if !ss.host(v) {
		return false
	}
	if !l.reachable(t, ss, a) { // from here on whoever preempts finds the visit and waits for it
		v.end()
		return false
	}
	if l != t.lun && l.gated != nil && !slices.Contains(t.guests, l) {
		t.guests = append(t.guests, l)
	}
	t.at = v
	return true
}

// host takes a visit in; false when the session is about to end, or its connection has.
func (s *session) host(v *visit) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.shut || s.conn.dead.Load() {
		return false
	}
	if s.visits == nil {
		s.visits = map[*visit]struct{}{}
	}
	s.visits[v] = struct{}{}
	return true
}

// end lets go of whoever waits for the visit.
func (v *visit) end() {
	v.s.mu.Lock()
	delete(v.s.visits, v)
	settled := v.s.settledNow()
	v.s.mu.Unlock()
	for _, w := range v.waiters {
		w.settle()
	}
	if settled {
		close(v.s.settled)
	}
}

// awaitVisits has w wait for what copies have in flight at a unit by way of this session; nil stands for all units.
func (s *session) awaitVisits(w *settle, l *lun) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for v := range s.visits {
		if l == nil || v.lun == l {
			w.left.Add(1)
			v.waiters = append(v.waiters, w)
		}
	}
}

// visited ends the visit that a command of a copy was, and says what its unit's error means to the copy: that the unit of another target is fenced is
// nothing against the session that asked.
func (t *task) visited(err error) error {
	v := t.at
	t.at = nil
	if v == nil {
		return err
	}
	v.end()
	if v.s != t.s && errors.Is(err, ErrFenced) {
		return errUnreachable
	}
	return err
}

// mayAnswer reports whether the unit of a command, and those that it copied from or to, may still answer.
func (t *task) mayAnswer() bool {
	if t.lun != nil && t.lun.gated != nil && !t.s.conn.mayAnswer(t.lun) {
		return false
	}
	for _, l := range t.guests {
		if !l.gated.MayAnswer() {
			return false
		}
	}
	return true
}

// named are the units of all targets with an NAA.
func (s *Server) named(naa string) (out []*lun) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.targets {
		for _, l := range t.luns {
			if naa == string(l.info.NAA[:]) {
				out = append(out, l)
			}
		}
	}
	return out
}

// unreachable is how a copy's segment ends at a unit that is not to be reached.
func unreachable() *iscsi.Sense { return copyAborted(iscsi.ASCCSCDNotReachable) }
