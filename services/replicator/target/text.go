package target

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// portalGroup is the tag of the one portal group there is: any portal reaches every target and session.
const portalGroup = "1"

// pendingText is a text exchange of several PDUs: the request's parts, then the rest of the answer.
type pendingText struct {
	in   []byte
	out  []byte
	ttt  uint32
	open bool
}

// textRequest answers SendTargets, and other keys as the login would (RFC 7143 section 11.10).
func (s *session) textRequest(p *iscsi.PDU) error {
	r := iscsi.ParseText(p)
	x := &s.text
	if r.TTT == iscsi.NoTag {
		*x = pendingText{}
	} else if !x.open || r.TTT != x.ttt {
		s.conn.send(newReject(p, iscsi.RejectProtocolError), 0)
		return nil
	}
	if r.Continue && r.Final || r.ITT == iscsi.NoTag {
		s.text = pendingText{}
		s.conn.send(newReject(p, iscsi.RejectInvalidPDUField), 0)
		return nil
	}
	if len(x.in)+len(p.Data) > iscsi.MaxTextLen {
		s.conn.send(newReject(p, iscsi.RejectProtocolError), 0)
		return fmt.Errorf("text request of more than %d bytes: %w", iscsi.MaxTextLen, errProtocol)
	}
	if r.Continue {
		x.in = append(x.in, p.Data...)
		x.open, x.ttt = true, s.nextTTT()
		s.sendText(r, nil, false)
		return nil
	}
	if len(x.out) == 0 {
		pairs, err := iscsi.DecodePairs(append(x.in, p.Data...))
		if err != nil {
			s.conn.send(newReject(p, iscsi.RejectProtocolError), 0)
			return nil
		}
		x.in = nil
		x.out = s.answerText(pairs)
	}
	n := min(len(x.out), int(s.maxSend.Load()))
	part := x.out[:n]
	x.out = x.out[n:]
	// An answer to a request that is not the last one is not the last one either (section 11.11.1).
	whole := len(x.out) == 0 && r.Final
	x.open, x.ttt = !whole, s.nextTTT()
	s.sendText(r, part, whole)
	return nil
}

func (s *session) sendText(r iscsi.Text, part []byte, whole bool) {
	answer := iscsi.TextResponse{Final: whole, Continue: len(s.text.out) > 0, LUN: r.LUN, ITT: r.ITT, TTT: iscsi.NoTag}
	if !whole {
		answer.TTT = s.text.ttt
	}
	s.conn.send(&reply{data: part, build: func(p *iscsi.PDU) { answer.Put(p) }}, len(part))
}

func (s *session) answerText(in iscsi.Pairs) []byte {
	var out iscsi.Pairs
	var body []byte
	for _, p := range in {
		if p.Key == "SendTargets" {
			list, ok := s.sendTargets(p.Value)
			if !ok {
				out.Add(p.Key, "Reject")
			}
			body = append(body, list...)
			continue
		}
		if answer := s.par.inText(p.Key, p.Value); answer != "" {
			out.Add(p.Key, answer)
		}
	}
	s.maxSend.Store(int64(s.par.maxSend))
	return append(body, out.Encode()...)
}

// sendTargets lists the targets that this session's user may log in to (RFC 7143 appendix C). "All" is for discovery
// sessions and an empty value for normal ones, whose own target is all there is to see; ok is false for the reverse.
func (s *session) sendTargets(which string) (list []byte, ok bool) {
	if (which == "All") != (s.tgt == nil) && (which == "All" || which == "") {
		return nil, false
	}
	names := []string{s.targetName()}
	if s.tgt == nil {
		names = s.srv.visible(s)
	}
	for _, name := range names {
		if which == "All" || which == "" || which == name {
			address := s.portal() + "," + portalGroup
			list = append(list, iscsi.Pairs{{Key: "TargetName", Value: name}, {Key: "TargetAddress", Value: address}}.Encode()...)
		}
	}
	return list, true
}

// portal is where this session's initiator reaches the targets.
func (s *session) portal() string {
	if p := s.srv.cfg.Portal; p != "" {
		return p
	}
	tcp, ok := s.conn.socket.local.(*net.TCPAddr)
	if !ok {
		return s.conn.socket.local.String()
	}
	return net.JoinHostPort(tcp.IP.String(), strconv.Itoa(tcp.Port)) // without the zone, which is this machine's own name
}

// visible are the targets that a discovery session is told of, in order: those its user may log in to, and all of them
// where discovery has credentials of its own.
func (s *Server) visible(ss *session) []string {
	s.mu.Lock()
	targets := maps.Clone(s.targets)
	s.mu.Unlock()
	var names []string
	for name, t := range targets {
		if s.cfg.Discovery != nil || t.guard == nil || slices.ContainsFunc(t.guard(), func(c CHAP) bool { return c.User == ss.user }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
