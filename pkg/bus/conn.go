package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/propagation"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// Conn is a connection to one site's NATS server. Its methods may be called from any goroutine.
type Conn struct {
	site, from domain.SiteID
	nc         *nats.Conn
	js         jetstream.JetStream
	log        *slog.Logger
	creds      *identity.Credentials // nil: plain
	guard      *guard                // nil: plain
	now        func() time.Time
	trouble    *trouble
	gate       gate

	mu   sync.Mutex
	up   chan struct{} // closed while connected
	down chan struct{} // closed and replaced when the connection is lost
	is   bool
	open map[*asking]bool // requests without a reply

	serving atomic.Bool

	version api.Version
	refused sync.Map // protocol versions that were refused and said so in the log
}

// Site is the site whose server this is.
func (c *Conn) Site() domain.SiteID { return c.site }

// Connected reports whether the server is thought reachable now; a black hole is noticed after two lost pings (3 s).
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// Serving reports whether Serve has begun to answer for a service on this connection.
func (c *Conn) Serving() bool { return c.serving.Load() }

// RoundTrip asks the server for a sign of life over the connection, behind all that was sent before. ctx must have a deadline.
func (c *Conn) RoundTrip(ctx context.Context) error {
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("ask NATS of site %s for a sign of life: %w: %w", c.site, domain.ErrUnavailable, err)
	}
	return nil
}

// AwaitConnected returns when the connection stands, or with ctx's error.
func (c *Conn) AwaitConnected(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		if why := c.trouble.why(); why != nil {
			return fmt.Errorf("connect to NATS of site %s: %w: refused: %w", c.site, domain.ErrUnavailable, why)
		}
		return fmt.Errorf("connect to NATS of site %s: %w: %w", c.site, domain.ErrUnavailable, ctx.Err())
	}
}

func (c *Conn) setUp(up bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if up == c.is {
		return
	}
	c.is = up
	if up {
		close(c.up)
	} else {
		c.up = make(chan struct{})
		close(c.down)
		c.down = make(chan struct{})
		for a := range c.open {
			a.lost = true
			a.cancel()
		}
	}
}

// asking is a request that waits for its reply.
type asking struct {
	cancel context.CancelFunc
	lost   bool // its connection was lost meanwhile; under mu
}

// ask registers a request, so that it ends with the connection: its reply most likely was lost with that, and whoever asked may
// ask again sooner than its time is over.
func (c *Conn) ask(cancel context.CancelFunc) *asking {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[*asking]bool{}
	}
	a := &asking{cancel: cancel}
	c.open[a] = true
	return a
}

// asked ends a request, and reports whether its connection was lost meanwhile.
func (c *Conn) asked(a *asking) bool {
	a.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, a)
	return a.lost
}

// lost is closed when the connection is next lost.
func (c *Conn) lost() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down
}

// Message is one core message.
type Message struct {
	Subject string
	Data    []byte
}

var traceContext = propagation.TraceContext{}

func newMsg(ctx context.Context, subject string, data []byte) *nats.Msg {
	msg := nats.NewMsg(subject)
	msg.Data = data
	traceContext.Inject(ctx, headerCarrier(msg.Header))
	return msg
}

// headerCarrier carries trace headers with their keys exactly as given: NATS headers are case-sensitive.
type headerCarrier nats.Header

func (h headerCarrier) Get(k string) string {
	if v := h[k]; len(v) > 0 {
		return v[0]
	}
	return ""
}
func (h headerCarrier) Set(k, v string) { h[k] = []string{v} }
func (h headerCarrier) Keys() []string {
	keys := make([]string, 0, len(h))
	for k := range h {
		keys = append(keys, k)
	}
	return keys
}

// Publish sends one core message and does not wait. It fails at once when the connection is down.
func (c *Conn) Publish(ctx context.Context, subject string, data []byte) error {
	if err := c.nc.PublishMsg(newMsg(ctx, subject, data)); err != nil {
		return fmt.Errorf("publish %s to site %s: %w: %w", subject, c.site, domain.ErrUnavailable, err)
	}
	return nil
}

// PublishJSON is Publish of v as JSON.
func (c *Conn) PublishJSON(ctx context.Context, subject string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", subject, err)
	}
	return c.Publish(ctx, subject, data)
}

// Subscribe calls f for each core message, one after the other, until ctx ends. It survives reconnects. It returns when
// the server has taken the subscription, or at once when the connection is down (it is made good on reconnect).
func (c *Conn) Subscribe(ctx context.Context, subject string, f func(ctx context.Context, m Message)) error {
	sub, err := c.nc.Subscribe(subject, func(msg *nats.Msg) {
		if ctx.Err() == nil {
			f(traceContext.Extract(ctx, headerCarrier(msg.Header)), Message{Subject: msg.Subject, Data: msg.Data})
		}
	})
	if err != nil {
		return fmt.Errorf("subscribe %s at site %s: %w", subject, c.site, err)
	}
	if err := sub.SetPendingLimits(1<<16, 256<<20); err != nil {
		return fmt.Errorf("subscribe %s at site %s: %w", subject, c.site, err)
	}
	context.AfterFunc(ctx, func() { _ = sub.Unsubscribe() })
	c.settle(ctx)
	return nil
}

// settle makes the server acknowledge what was sent so far, if it can be reached.
func (c *Conn) settle(ctx context.Context) {
	if !c.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_ = c.nc.FlushWithContext(ctx) // not reached: the subscription is made good on reconnect
}

// Headers by which an error crosses, as NATS micro has them.
const (
	errorHeader     = "Nats-Service-Error"
	errorCodeHeader = "Nats-Service-Error-Code"
)

// Request sends data and waits for the reply, at most until ctx's deadline (2 s when it has none). Errors: what the other
// side answered, wrapping the domain's sentinel; or domain.ErrUnavailable when nobody answered: then the effect is unknown.
func (c *Conn) Request(ctx context.Context, subject string, data []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	msg := newMsg(ctx, subject, data)
	if err := c.sign(msg); err != nil {
		return nil, fmt.Errorf("request %s of site %s: %w", subject, c.site, err)
	}
	return c.request(ctx, msg)
}

// request sends a message and waits for its reply.
func (c *Conn) request(ctx context.Context, msg *nats.Msg) ([]byte, error) {
	if err := c.gate.enter(ctx); err != nil {
		return nil, fmt.Errorf("request %s of site %s: %w: %w", msg.Subject, c.site, domain.ErrUnavailable, err)
	}
	defer c.gate.leave()
	c.stamp(msg.Header)
	rctx, cancel := context.WithCancel(ctx)
	a, asked := c.ask(cancel), time.Now()
	reply, err := c.nc.RequestMsgWithContext(rctx, msg)
	if lost := c.asked(a); err != nil && lost && ctx.Err() == nil {
		return nil, fmt.Errorf("request %s of site %s: %w: the connection was lost before the reply came", msg.Subject, c.site, domain.ErrUnavailable)
	}
	if errors.Is(err, nats.ErrHeadersNotSupported) { // what the client says of a server that it never met
		return nil, fmt.Errorf("request %s of site %s: %w: its NATS server was not reached yet", msg.Subject, c.site, domain.ErrUnavailable)
	}
	if err != nil && c.trouble.isDenied(msg.Subject, asked) {
		return nil, fmt.Errorf("request %s of site %s: %w: its server lets %s not ask that: %w", msg.Subject, c.site, domain.ErrRefused, c.creds.Principal(), deniedError{err})
	}
	if err != nil {
		return nil, fmt.Errorf("request %s of site %s: %w: %w", msg.Subject, c.site, domain.ErrUnavailable, err)
	}
	if c.creds != nil && reply.Header.Get(versionHeader) == "" { // a stream over the subject acknowledges what it stores
		return nil, fmt.Errorf("request %s of site %s: %w: what answered is no service: look for a stream that takes this subject", msg.Subject, c.site, domain.ErrUnavailable)
	}
	if err := c.accept(msg.Subject, reply.Header); err != nil {
		return nil, err
	}
	if code := reply.Header.Get(errorCodeHeader); code != "" {
		return nil, remoteError(code, reply.Header.Get(errorHeader))
	}
	return reply.Data, nil
}

// RemoteError is an error that another service answered.
type RemoteError struct {
	Code    string // domain.Code's
	Message string
}

// Error implements error.
func (e *RemoteError) Error() string { return e.Message }

// Unwrap gives the sentinel of the code.
func (e *RemoteError) Unwrap() error { return domain.FromCode(e.Code) }

func remoteError(code, message string) error {
	if message == "" {
		message = code
	}
	return &RemoteError{Code: code, Message: message}
}

// Handle answers core requests on a subject until ctx ends: each in a goroutine of its own, at most 64 at a time.
// It is the plain way for hot paths (votes, resync data); services use Serve. With credentials a request must be signed by one that
// may send it (access.MaySend): its caller is in ctx.
func (c *Conn) Handle(ctx context.Context, subject string, f func(ctx context.Context, data []byte) ([]byte, error)) error {
	slots := make(chan struct{}, 64)
	sub, err := c.nc.Subscribe(subject, func(msg *nats.Msg) {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c.gate.join()
		go func() {
			defer c.gate.leave()
			defer func() { <-slots }()
			var out []byte
			rctx := traceContext.Extract(ctx, headerCarrier(msg.Header))
			err := c.accept(subject, msg.Header)
			if err == nil && c.guard != nil {
				if rctx, err = c.guard.checkPlain(rctx, msg.Subject, msg.Header, msg.Data); err != nil && c.trouble.fresh(err.Error()) {
					c.log.Warn("request refused", "subject", subject, "error", err)
				}
			}
			if !c.mayAnswer(rctx, msg.Reply) {
				return
			}
			if err == nil {
				out, err = f(rctx, msg.Data)
			}
			if ctx.Err() != nil {
				return // a service that was stopped answers nothing
			}
			reply := nats.NewMsg(msg.Reply)
			reply.Data = out
			c.stamp(reply.Header)
			if err != nil {
				reply.Data = nil
				reply.Header.Set(errorCodeHeader, domain.Code(err))
				reply.Header.Set(errorHeader, oneLine(err.Error()))
			}
			if err := c.nc.PublishMsg(reply); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				c.log.Debug("reply not sent", "subject", subject, "error", err)
			}
		}()
	})
	if err != nil {
		return fmt.Errorf("handle %s at site %s: %w", subject, c.site, err)
	}
	context.AfterFunc(ctx, func() { _ = sub.Unsubscribe() })
	c.settle(ctx)
	return nil
}
