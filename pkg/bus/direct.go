package bus

import (
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// DirectWriter sends frames to whoever subscribed to a group's direct subject at this (the target's) server, past any stream: one
// message there and a position back, no more. Nobody stores them and nothing tells that one did not arrive: the caller
// looks at the target's positions, and sends again.
type DirectWriter struct {
	conn    *Conn
	subject string
	lost    <-chan struct{}
}

// OpenDirect takes the direct way to a group's replicator at this server.
func (c *Conn) OpenDirect(g domain.GroupID, e domain.Epoch) *DirectWriter {
	return &DirectWriter{conn: c, subject: api.DirectSubject(g, e), lost: c.lost()}
}

// Lost is closed when the connection was lost since the way was opened: what was on it may be.
func (w *DirectWriter) Lost() <-chan struct{} { return w.lost }

// Send sends one message and never waits. It fails at once when the connection is down. While that is made anew for new keys nothing is
// sent: then opens is closed when it may be tried again. It is made anew once everything that was sent is settled, so whoever sends
// must go on settling meanwhile. settled must be called once what was sent is known to have arrived, or is given up. frame is the
// caller's again on return.
func (w *DirectWriter) Send(frame []byte) (settled func(), opens <-chan struct{}, err error) {
	entered, opens := w.conn.gate.try()
	if !entered {
		return nil, opens, nil
	}
	if err := w.conn.nc.PublishMsg(&nats.Msg{Subject: w.subject, Data: frame}); err != nil {
		w.conn.gate.leave()
		return nil, nil, fmt.Errorf("send a frame on %s to site %s: %w: %w", w.subject, w.conn.site, domain.ErrUnavailable, err)
	}
	return w.conn.gate.leave, nil, nil
}
