package target

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// errProtocol ends a session whose initiator broke the protocol.
var errProtocol = errors.New("protocol error")

// session is one I_T nexus with its one connection. tgt is nil in a discovery session.
type session struct {
	srv       *Server
	tgt       *tgt
	conn      *conn
	initiator string
	isid      [6]byte
	nexusName string // see nexus
	tsih      uint16
	user      string // who authenticated, "" for nobody
	secret    []byte // with which secret
	par       params
	since     time.Time
	ttt       atomic.Uint32
	maxSend   atomic.Int64 // the initiator's MaxRecvDataSegmentLength, which it may change at any time
	hasUA     atomic.Bool
	text      pendingText   // reader only
	share     *atomic.Int64 // bytes of commands in flight of its address
	counted   bool          // among the sessions of its address
	leaving   bool          // a logout was taken; reader only
	managing  atomic.Int64  // task management functions that are not answered yet
	copies    copyResults

	mu        sync.Mutex
	expCmdSN  uint32
	inFlight  int // tasks that hold a place in the window
	immediate int // immediate tasks in flight
	tasks     map[uint32]*task
	free      []*task
	freeR2T   []*r2t
	ua        map[int][]iscsi.Sense
	visits    map[*visit]struct{} // parts of copies that reach a unit by this session
	shut      bool                // it is about to log out
	closing   bool
	settled   chan struct{} // closed once closing and nothing is with a unit

	gone chan struct{} // closed once the session left its target
}

func newSession(c *conn, first iscsi.Login) *session {
	return &session{srv: c.srv, conn: c, isid: first.ISID, expCmdSN: first.CmdSN, par: defaultParams(), since: time.Now(), share: new(atomic.Int64),
		tasks: map[uint32]*task{}, ua: map[int][]iscsi.Sense{}, settled: make(chan struct{}), gone: make(chan struct{})}
}

func (s *session) targetName() string {
	if s.tgt == nil {
		return ""
	}
	return s.tgt.iqn
}

func (s *session) info() SessionInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SessionInfo{Target: s.targetName(), Initiator: s.initiator, Remote: s.conn.socket.remote.String(), TSIH: s.tsih, Since: s.since,
		HeaderDigest: s.par.headerDigest, DataDigest: s.par.dataDigest, InFlight: s.inFlight + s.immediate}
}

// nexus names the I_T nexus for reservations: initiator name and ISID, as they stand in a TransportID. It is set when the
// session joins its target.
func (s *session) nexus() string { return s.nexusName }

func nexusOf(initiator string, isid [6]byte) string {
	return fmt.Sprintf("%s,i,0x%x", strings.ToLower(initiator), isid)
}

// nextTTT is a target transfer tag that is not reserved.
func (s *session) nextTTT() uint32 {
	for {
		if n := s.ttt.Add(1); n != iscsi.NoTag {
			return n
		}
	}
}

// window is ExpCmdSN and MaxCmdSN as of now. MaxCmdSN never falls: a command takes its place and its number at once.
func (s *session) window() (exp, maxCmd uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expCmdSN, s.maxCmdSN()
}

// idle reports whether every command was done.
func (s *session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inFlight+s.immediate == 0
}

func (s *session) maxCmdSN() uint32 { return s.expCmdSN + uint32(s.srv.cfg.QueueDepth-s.inFlight) - 1 }

// handle acts on one PDU. An error ends the session.
func (s *session) handle(p *iscsi.PDU) error {
	op := p.Opcode()
	switch op {
	case iscsi.OpDataOut:
		return s.dataOut(p)
	case iscsi.OpSNACK:
		s.conn.send(newReject(p, iscsi.RejectSNACK), 0)
		return nil
	case iscsi.OpSCSICommand, iscsi.OpTaskMgmt, iscsi.OpNopOut, iscsi.OpTextRequest, iscsi.OpLogout:
	default:
		s.conn.send(newReject(p, iscsi.RejectNotSupported), 0)
		return fmt.Errorf("%v in the full feature phase: %w", op, errProtocol)
	}
	if s.tgt == nil && op != iscsi.OpTextRequest && op != iscsi.OpLogout {
		s.conn.send(newReject(p, iscsi.RejectProtocolError), 0) // section 4.3
		return fmt.Errorf("%v in a discovery session: %w", op, errProtocol)
	}
	if s.leaving {
		s.conn.send(newReject(p, iscsi.RejectWaitLogout), 0)
		return fmt.Errorf("%v after a logout: %w", op, errProtocol)
	}
	take, err := s.admit(p)
	if err != nil || !take {
		return err
	}
	switch op {
	case iscsi.OpSCSICommand:
		return s.command(p)
	case iscsi.OpTaskMgmt:
		s.taskMgmt(iscsi.ParseTaskMgmt(p), p)
	case iscsi.OpNopOut:
		s.nopOut(p)
	case iscsi.OpTextRequest:
		return s.textRequest(p)
	case iscsi.OpLogout:
		s.logout(iscsi.ParseLogout(p), p)
	}
	return nil
}

// admit checks the number of a command. One out of the window is ignored (RFC 7143 section 4.2.2.1); a gap within it
// cannot be filled on the session's only connection, which keeps its order.
func (s *session) admit(p *iscsi.PDU) (bool, error) {
	if p.Immediate() {
		return true, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sn := p.CmdSN()
	if int32(sn-s.expCmdSN) < 0 || int32(sn-s.maxCmdSN()) > 0 {
		return false, nil
	}
	if sn != s.expCmdSN {
		return false, fmt.Errorf("CmdSN %d where %d was due: %w", sn, s.expCmdSN, errProtocol)
	}
	s.expCmdSN++
	if p.Opcode() == iscsi.OpSCSICommand {
		s.inFlight++ // with its number, so that MaxCmdSN never falls
	}
	return true, nil
}

// place is where the data of a Data-Out goes, when it can go straight there.
func (s *session) place(p *iscsi.PDU) []byte {
	if p.Opcode() != iscsi.OpDataOut {
		return nil
	}
	d := iscsi.ParseDataOut(p)
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[d.ITT]
	if t == nil || t.state != receiving || int(d.Offset) != t.got || t.got+p.DataLen() > len(t.data) {
		return nil
	}
	return t.data[t.got : t.got+p.DataLen()]
}

// addUA makes the next command to a unit report a condition.
func (s *session) addUA(lun int, asc uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, have := range s.ua[lun] {
		if have.ASC == asc {
			return
		}
	}
	s.ua[lun] = append(s.ua[lun], iscsi.Sense{Key: iscsi.SenseUnitAttention, ASC: asc})
	s.hasUA.Store(true)
}

// takeUA removes and returns the oldest condition of a unit.
func (s *session) takeUA(lun int) (iscsi.Sense, bool) {
	if !s.hasUA.Load() {
		return iscsi.Sense{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.ua[lun]
	if len(q) == 0 {
		return iscsi.Sense{}, false
	}
	s.ua[lun] = q[1:]
	left := 0
	for _, other := range s.ua {
		left += len(other)
	}
	s.hasUA.Store(left > 0)
	return q[0], true
}

// end aborts what is in flight, waits until the units are done with it and leaves the target.
func (s *session) end() {
	s.mu.Lock()
	s.closing = true
	for itt, t := range s.tasks {
		t.aborted = true
		if t.state != running {
			delete(s.tasks, itt)
			s.giveBack(t)
		}
	}
	if s.settledNow() {
		close(s.settled)
	}
	s.mu.Unlock()
	<-s.settled
	if s.tgt != nil {
		s.loseNexus() // while no other session of its nexus can have begun
		s.tgt.mu.Lock()
		delete(s.tgt.sessions, s)
		s.tgt.mu.Unlock()
	}
	if s.counted {
		s.srv.limits.end(s.conn.peer)
	}
	close(s.gone)
}

// settledNow reports whether the session is at its end and the last of what was in flight has settled. Under mu, by whoever settled something.
func (s *session) settledNow() bool { return s.closing && len(s.tasks) == 0 && len(s.visits) == 0 }

// loseNexus ends what units keep for this session. A second time it finds nothing.
func (s *session) loseNexus() {
	if s.tgt == nil {
		return
	}
	for _, l := range s.tgt.luns {
		l.nexusLost(s)
	}
}

// logout ends the session after what is in flight. Nothing may follow it (RFC 7143 section 11.14).
func (s *session) logout(l iscsi.Logout, p *iscsi.PDU) {
	var rsp byte
	switch {
	case l.Reason > iscsi.LogoutRecovery, l.ITT == iscsi.NoTag, s.tgt == nil && l.Reason != iscsi.LogoutCloseSession:
		s.conn.send(newReject(p, iscsi.RejectInvalidPDUField), 0)
		return
	case l.Reason == iscsi.LogoutRecovery:
		rsp = iscsi.LogoutNoRecovery
	case l.Reason == iscsi.LogoutCloseConnection && l.CID != s.par.cid:
		rsp = iscsi.LogoutNoCID
	}
	answer := &reply{last: rsp == iscsi.LogoutOK, build: func(p *iscsi.PDU) { iscsi.LogoutResponse{Response: rsp, ITT: l.ITT}.Put(p) }}
	if rsp != iscsi.LogoutOK {
		s.conn.send(answer, 0)
		return
	}
	s.leaving = true
	w := newSettle(func() {
		s.loseNexus() // before the initiator, and so anyone else, can know that it has left
		s.conn.send(answer, 0)
	})
	s.abort(w, func(*task) bool { return true })
	s.mu.Lock()
	s.shut = true
	s.mu.Unlock()
	s.awaitVisits(w, nil)
	w.settle()
}

// nopOut answers a ping; the answer to our own ping needs nothing.
func (s *session) nopOut(p *iscsi.PDU) {
	n := iscsi.ParseNopOut(p)
	if n.ITT == iscsi.NoTag {
		return
	}
	data, buf := p.Data, p.Take()
	if limit := int(s.maxSend.Load()); len(data) > limit {
		data = data[:limit]
	}
	s.conn.send(&reply{data: data, buf: buf, build: func(p *iscsi.PDU) { iscsi.NopIn{LUN: n.LUN, ITT: n.ITT, TTT: iscsi.NoTag}.Put(p) }}, len(data))
}

// reply is an answer of one PDU.
type reply struct {
	build func(*iscsi.PDU)
	data  []byte
	buf   *iscsi.Buffer
	free  bool // uses no StatSN up
	last  bool
}

func (r *reply) emit(c *conn) error {
	var p iscsi.PDU
	r.build(&p)
	p.Data = r.data
	err := c.stamp(&p, !r.free)
	r.discard()
	if r.last {
		c.last = true
	}
	return err
}

func (r *reply) discard() {
	r.buf.Release()
	r.buf = nil
}

func newReject(bad *iscsi.PDU, reason byte) *reply {
	header := append([]byte(nil), bad.BHS[:]...)
	return &reply{data: header, build: func(p *iscsi.PDU) { iscsi.Reject{Reason: reason}.Put(p) }}
}

func newPing(ttt uint32) *reply {
	return &reply{free: true, build: func(p *iscsi.PDU) { iscsi.NopIn{ITT: iscsi.NoTag, TTT: ttt}.Put(p) }}
}
