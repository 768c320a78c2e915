package target

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// maxLoginPDUs bounds a login that never ends.
const maxLoginPDUs = 64

// loginError is a login that is refused with a status.
type loginError struct {
	status uint16
	why    string
}

func (e *loginError) Error() string { return fmt.Sprintf("%s (status 0x%04x)", e.why, e.status) }

func refuse(status uint16, format string, args ...any) error {
	return &loginError{status, fmt.Sprintf(format, args...)}
}

// loginState is a login under way.
type loginState struct {
	c        *conn
	ss       *session
	deadline time.Time
	first    bool
	stage    byte
	req      iscsi.Login
	text     []byte // parts joined so far (C bit)
	seen     map[string]bool
	normal   bool
	auth     authState
	declared bool   // our own declarations were sent
	itt      uint32 // of the first request, and so of all
	tsih     uint16 // as well
	rest     []byte // of an answer that is sent in parts
}

// login leads a connection through its login (RFC 7143 section 6.3) and returns its session, nil with an error when it
// was refused.
func login(c *conn) (*session, error) {
	l := &loginState{c: c, deadline: time.Now().Add(c.srv.cfg.LoginTimeout), first: true, seen: map[string]bool{}}
	c.statSN = 1
	var p iscsi.PDU
	defer p.Release()
	for range maxLoginPDUs {
		if err := c.r.Next(&p); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil, fmt.Errorf("log in: not done within %v: %w", c.srv.cfg.LoginTimeout, err)
			}
			return nil, fmt.Errorf("read login: %w", err)
		}
		if p.Opcode() != iscsi.OpLoginRequest {
			return nil, fmt.Errorf("%v before login: %w", p.Opcode(), errProtocol)
		}
		l.req = iscsi.ParseLogin(&p)
		done, err := l.step(p.Data)
		var le *loginError
		if errors.As(err, &le) {
			if le.status == iscsi.LoginAuthFailure {
				c.srv.limits.failedLogin(c.peer) // before the initiator hears of it and tries again
			}
			_ = l.respond(false, nil, le.status)
		}
		if err != nil || done {
			return l.ss, err
		}
	}
	return nil, fmt.Errorf("login of more than %d PDUs: %w", maxLoginPDUs, errProtocol)
}

// step takes one request. done means that the session is in its full feature phase and the initiator knows.
func (l *loginState) step(data []byte) (done bool, err error) {
	if err := l.checkHeader(); err != nil {
		return false, err
	}
	if len(l.text)+len(data) > iscsi.MaxTextLen {
		return false, refuse(iscsi.LoginInitiatorError, "login text too long")
	}
	l.text = append(l.text, data...)
	if l.req.Continue {
		return false, l.respond(false, nil, iscsi.LoginSuccess)
	}
	if len(l.rest) > 0 {
		if len(l.text) > 0 {
			return false, refuse(iscsi.LoginInitiatorError, "more keys before the answer was taken")
		}
		return l.goOn()
	}
	pairs, err := iscsi.DecodePairs(l.text)
	l.text = nil
	if err != nil {
		return false, refuse(iscsi.LoginInitiatorError, "login text: %v", err)
	}
	var out iscsi.Pairs
	if l.first {
		if err := l.identify(pairs, &out); err != nil {
			return false, err
		}
		l.first = false
	}
	if l.stage == iscsi.StageSecurity {
		if err := l.auth.step(l, pairs, &out); err != nil {
			return false, err
		}
	} else if !l.auth.done(l) {
		return false, refuse(iscsi.LoginAuthFailure, "no authentication")
	}
	if err := l.operational(pairs, &out); err != nil {
		return false, err
	}
	return l.advance(out)
}

func (l *loginState) checkHeader() error {
	r := l.req
	switch {
	case l.first && r.VersionMin > 0:
		return refuse(iscsi.LoginUnsupportedVersion, "version %d", r.VersionMin)
	case r.Transit && r.Continue, r.CSG != iscsi.StageSecurity && r.CSG != iscsi.StageOperational,
		r.Transit && (r.NSG <= r.CSG || r.NSG == 2):
		return refuse(iscsi.LoginInvalidRequest, "stages %d to %d", r.CSG, r.NSG)
	case !l.first && r.CSG != l.stage:
		return refuse(iscsi.LoginInvalidRequest, "stage %d where %d was due", r.CSG, l.stage)
	case l.ss != nil && (r.ISID != l.ss.isid || r.ITT != l.itt || r.CID != l.ss.par.cid || r.TSIH != l.tsih):
		return refuse(iscsi.LoginInvalidRequest, "ISID, CID, TSIH or task tag changed")
	case len(l.rest) > 0 && r.Continue:
		return refuse(iscsi.LoginInvalidRequest, "a request in parts before the answer was taken")
	}
	if l.ss != nil {
		return nil
	}
	l.stage, l.itt, l.tsih = r.CSG, r.ITT, r.TSIH
	l.ss = newSession(l.c, r)
	l.ss.par.cid = r.CID
	l.ss.ttt.Store(uint32(time.Now().UnixNano()) >> 1)
	return nil
}

// identify takes the keys of the first request: who logs in, and to what.
func (l *loginState) identify(in iscsi.Pairs, out *iscsi.Pairs) error {
	name, ok := in.Get("InitiatorName")
	if !ok || name == "" || len(name) > 223 {
		return refuse(iscsi.LoginMissingParameter, "no InitiatorName")
	}
	l.ss.initiator = name
	kind, _ := in.Get("SessionType")
	if l.normal = kind == "Normal" || kind == ""; !l.normal && kind != "Discovery" {
		return refuse(iscsi.LoginSessionType, "session type %q", kind)
	}
	if l.normal {
		want, ok := in.Get("TargetName")
		if !ok {
			return refuse(iscsi.LoginMissingParameter, "no TargetName")
		}
		if l.ss.tgt = l.c.srv.target(want); l.ss.tgt == nil {
			return refuse(iscsi.LoginTargetNotFound, "no target %q", want)
		}
		out.Add("TargetPortalGroupTag", portalGroup)
	}
	l.ss.par.discovery = !l.normal
	if l.req.TSIH == 0 {
		return nil
	}
	if l.ss.tgt != nil {
		for _, have := range l.ss.tgt.list() {
			if have.tsih == l.req.TSIH && have.initiator == name && have.isid == l.req.ISID {
				return refuse(iscsi.LoginTooManyConnections, "a second connection")
			}
		}
	}
	return refuse(iscsi.LoginNoSession, "no session %d", l.req.TSIH)
}

// operational answers the operational keys and, once, declares ours.
func (l *loginState) operational(in iscsi.Pairs, out *iscsi.Pairs) error {
	for _, p := range inOrder(in) {
		if l.auth.owns(p.Key) {
			continue
		}
		if l.seen[p.Key] {
			return refuse(iscsi.LoginInitiatorError, "%s negotiated twice", p.Key)
		}
		l.seen[p.Key] = true
		answer, ok := l.ss.par.negotiate(p.Key, p.Value)
		if !ok {
			return refuse(iscsi.LoginInitiatorError, "%s=%s is not acceptable", p.Key, p.Value)
		}
		if answer != "" {
			out.Add(p.Key, answer)
		}
	}
	q := &l.ss.par
	q.firstBurst = min(q.firstBurst, q.maxBurst)
	if l.stage == iscsi.StageOperational && !l.declared {
		l.declared = true
		out.Add("MaxRecvDataSegmentLength", fmt.Sprint(maxRecvData))
	}
	return nil
}

// advance answers the request, moving to the stage it asks for when nothing is left to do in this one.
func (l *loginState) advance(out iscsi.Pairs) (done bool, err error) {
	text := out.Encode()
	if len(text) > l.ss.par.answerRoom() {
		l.rest = text
		return l.goOn()
	}
	return l.conclude(text)
}

// goOn sends the next part of an answer that is longer than the initiator takes in one PDU. It asks for each part by an
// empty request; the stage is left with the last one.
func (l *loginState) goOn() (done bool, err error) {
	n := min(len(l.rest), l.ss.par.answerRoom())
	part := l.rest[:n]
	if l.rest = l.rest[n:]; len(l.rest) == 0 {
		return l.conclude(part)
	}
	return false, l.respond(false, part, iscsi.LoginSuccess)
}

// conclude sends an answer's end and, when the initiator asks for it and nothing is missing, goes to the next stage.
func (l *loginState) conclude(text []byte) (done bool, err error) {
	if !l.req.Transit || !l.auth.done(l) {
		return false, l.respond(false, text, iscsi.LoginSuccess)
	}
	l.stage = l.req.NSG
	if l.stage != iscsi.StageFullFeature {
		return false, l.respond(true, text, iscsi.LoginSuccess)
	}
	if err := l.join(); err != nil {
		return false, err
	}
	if err := l.respond(true, text, iscsi.LoginSuccess); err != nil {
		l.ss.end()
		return false, err
	}
	q := l.ss.par
	l.ss.maxSend.Store(int64(q.maxSend))
	l.c.ss = l.ss
	l.c.r.SetMaxData(maxRecvData)
	l.c.r.SetDigests(q.headerDigest, q.dataDigest)
	l.c.w.SetDigests(q.headerDigest, q.dataDigest)
	return true, nil
}

// join makes the session one of its target's. A session of the same initiator and ISID is ended first, and what it had
// in flight waited for, so that nothing of it can land after what this session writes (session reinstatement, RFC 7143
// section 6.3.5).
func (l *loginState) join() error {
	l.ss.tsih, l.ss.nexusName = l.c.srv.newTSIH(), nexusOf(l.ss.initiator, l.ss.isid)
	t := l.ss.tgt
	if t == nil {
		return l.count()
	}
	t.awaitLost(l.ss)
	limit := time.NewTimer(time.Until(l.deadline))
	defer limit.Stop()
	for {
		old, err := t.enter(l.ss)
		if old == nil && err == nil {
			if err = l.count(); err != nil {
				l.ss.end()
			}
		}
		if old == nil {
			return err
		}
		old.conn.kill("session reinstated")
		select {
		case <-old.gone:
		case <-limit.C:
			return refuse(iscsi.LoginServiceUnavailable, "the former session has not settled")
		}
	}
}

// count takes a place for the session among those of its address, until its end.
func (l *loginState) count() error {
	c, limits := l.c, l.c.srv.limits
	share, ok := limits.begin(c.peer)
	if l.ss.counted = ok; ok {
		l.ss.share = share
	} else {
		c.srv.log.Warn("login refused: this address has as many sessions as one may", "initiator", l.ss.initiator, "address", c.peer.String(),
			"sessions", c.srv.cfg.MaxSessionsPerPeer)
		return refuse(iscsi.LoginOutOfResources, "its address has %d sessions", c.srv.cfg.MaxSessionsPerPeer)
	}
	return nil
}

// enter adds ss, or returns the session that must go first.
func (t *tgt) enter(ss *session) (*session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.removed {
		return nil, refuse(iscsi.LoginTargetRemoved, "target %s was removed", t.iqn)
	}
	for have := range t.sessions {
		if have.initiator == ss.initiator && have.isid == ss.isid {
			return have, nil
		}
	}
	t.sessions[ss] = struct{}{}
	return nil, nil
}

// respond answers the request at hand.
func (l *loginState) respond(transit bool, text []byte, status uint16) error {
	var p iscsi.PDU
	r := iscsi.LoginResponse{Transit: transit, Continue: status == iscsi.LoginSuccess && len(l.rest) > 0, CSG: l.req.CSG, ISID: l.req.ISID, TSIH: l.req.TSIH, ITT: l.req.ITT, Status: status}
	if transit {
		r.NSG = l.req.NSG
	}
	if l.ss != nil && l.ss.tsih != 0 && status == iscsi.LoginSuccess {
		r.TSIH = l.ss.tsih
	}
	r.Put(&p)
	p.Data = text
	if l.ss != nil {
		exp, maxCmd := l.ss.window()
		p.SetStat(l.c.statSN, exp, maxCmd)
	}
	if status == iscsi.LoginSuccess {
		l.c.statSN++
	}
	if err := l.c.w.Write(&p); err != nil {
		return err
	}
	return l.c.w.Flush()
}
