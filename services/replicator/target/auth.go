package target

import (
	"bytes"
	"crypto/subtle"
	"net"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// authState is the security stage of one login.
type authState struct {
	agreed     bool // AuthMethod was answered
	chap       bool // with CHAP
	passed     bool
	challenged bool
	challenge  iscsi.Challenge
	asked      bool // all and required are known
	all        []CHAP
	required   bool
}

// owns reports whether a key belongs to the security stage.
func (a *authState) owns(key string) bool {
	return key == "AuthMethod" || strings.HasPrefix(key, "CHAP_")
}

// credentials are the CHAP entries this login may use: those of its target, or for discovery its own, or without any those
// of all targets.
// required is false when a login without any is let in. They are asked for once, so that a login sees one state of them.
func (a *authState) credentials(l *loginState) (all []CHAP, required bool) {
	if a.asked {
		return a.all, a.required
	}
	a.asked = true
	guards := []Guard{l.c.srv.cfg.Discovery}
	if t := l.ss.tgt; t != nil {
		guards[0] = t.guard
	} else if guards[0] == nil {
		guards = l.c.srv.guards()
	}
	a.required = len(guards) > 0
	for _, g := range guards {
		if g == nil {
			a.required = false
			continue
		}
		a.all = append(a.all, g()...)
	}
	return a.all, a.required
}

// guards are those of all targets.
func (s *Server) guards() []Guard {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Guard
	for _, t := range s.targets {
		out = append(out, t.guard)
	}
	return out
}

// done reports whether the stage may be left.
func (a *authState) done(l *loginState) bool {
	if a.chap {
		return a.passed
	}
	_, required := a.credentials(l)
	return !required
}

// step answers the security keys of one request.
func (a *authState) step(l *loginState, in iscsi.Pairs, out *iscsi.Pairs) error {
	if methods, ok := in.Get("AuthMethod"); ok {
		return a.method(l, methods, out)
	}
	if _, ok := in.Get("CHAP_A"); ok {
		return a.issue(in, out)
	}
	if _, ok := in.Get("CHAP_R"); ok {
		return a.verify(l, in, out)
	}
	if l.req.Transit && !a.done(l) {
		return refuse(iscsi.LoginAuthFailure, "no authentication")
	}
	return nil
}

// method chooses how: CHAP where it is required, or where the initiator insists and could pass; else none.
func (a *authState) method(l *loginState, methods string, out *iscsi.Pairs) error {
	if a.agreed {
		return refuse(iscsi.LoginInitiatorError, "AuthMethod negotiated twice")
	}
	a.agreed = true
	all, required := a.credentials(l)
	_, none := pick(methods, "None")
	_, chap := pick(methods, "CHAP")
	switch {
	case chap && len(all) > 0 && (required || !none):
		a.chap = true
		out.Add("AuthMethod", "CHAP")
	case none && !required:
		out.Add("AuthMethod", "None")
	default:
		return refuse(iscsi.LoginAuthFailure, "no authentication method of %q will do", methods)
	}
	return nil
}

func (a *authState) issue(in iscsi.Pairs, out *iscsi.Pairs) error {
	algorithms, _ := in.Get("CHAP_A")
	if _, ok := pick(algorithms, iscsi.CHAPMD5); !ok || !a.chap || a.challenged {
		return refuse(iscsi.LoginAuthFailure, "CHAP algorithm %q", algorithms)
	}
	a.challenged, a.challenge = true, iscsi.NewChallenge()
	out.Add("CHAP_A", iscsi.CHAPMD5)
	a.challenge.Add(out)
	return nil
}

// verify checks the initiator's response, once, and answers its own challenge if it sent one.
func (a *authState) verify(l *loginState, in iscsi.Pairs, out *iscsi.Pairs) error {
	if !a.challenged || a.passed {
		return refuse(iscsi.LoginAuthFailure, "CHAP response out of order")
	}
	a.challenged = false
	if err := l.awaitTurn(); err != nil {
		return err
	}
	name, _ := in.Get("CHAP_N")
	response, _ := in.Get("CHAP_R")
	all, _ := a.credentials(l)
	var who *CHAP
	for i, c := range all {
		same := subtle.ConstantTimeCompare([]byte(c.User), []byte(name)) == 1
		if a.challenge.Verify(response, c.Secret) && same {
			who = &all[i]
		}
	}
	if who == nil {
		return refuse(iscsi.LoginAuthFailure, "CHAP response of %q is wrong", name)
	}
	if _, ok := in.Get("CHAP_C"); ok {
		theirs, err := iscsi.ParseChallenge(in)
		if err != nil || who.MutualSecret == nil || bytes.Equal(theirs.Value, a.challenge.Value) {
			return refuse(iscsi.LoginAuthFailure, "mutual CHAP cannot be answered")
		}
		out.Add("CHAP_N", who.MutualUser)
		out.Add("CHAP_R", iscsi.EncodeBinary(theirs.Response(who.MutualSecret)))
	}
	a.passed, l.ss.user, l.ss.secret = true, name, who.Secret
	l.c.srv.limits.rightLogin(l.c.peer)
	return nil
}

// awaitTurn holds up the credentials of an address that failed too often.
func (l *loginState) awaitTurn() error {
	patience := time.Until(l.deadline) - time.Second
	wait, ok := l.c.srv.limits.turn(l.c.peer, patience)
	if !ok {
		return refuse(iscsi.LoginServiceUnavailable, "its address failed too many logins, and many of them wait")
	}
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-l.c.ended:
		return net.ErrClosed
	}
}
