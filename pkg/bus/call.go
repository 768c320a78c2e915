package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Endpoint answers one verb: a JSON request in, a JSON reply out.
type Endpoint func(ctx context.Context, request []byte) (any, error)

// Answer makes an Endpoint of a typed function. A request that does not decode is domain.ErrInvalid.
func Answer[Req, Resp any](f func(context.Context, Req) (Resp, error)) Endpoint {
	return func(ctx context.Context, raw []byte) (any, error) {
		var req Req
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &req); err != nil {
				return nil, fmt.Errorf("decode request: %w: %w", domain.ErrInvalid, err)
			}
		}
		return f(ctx, req)
	}
}

// Call asks a service of a site and waits for its reply until ctx's deadline (2 s when it has none). Errors as Conn.Request.
func Call[Resp, Req any](ctx context.Context, c *Conn, service, verb string, req Req) (Resp, error) {
	var resp Resp
	data, err := json.Marshal(req)
	if err != nil {
		return resp, fmt.Errorf("encode request %s.%s: %w", service, verb, err)
	}
	raw, err := c.Request(ctx, api.QuerySubject(c.site, service, verb), data)
	if err != nil {
		return resp, err
	}
	if err := json.Unmarshal(raw, &resp); err != nil {
		return resp, fmt.Errorf("decode reply of %s.%s at site %s: %w", service, verb, c.site, err)
	}
	return resp, nil
}

// Unanswered reports whether a request failed because the server knows nobody who would answer it: the server itself was
// reached and lives.
func Unanswered(err error) bool { return errors.Is(err, nats.ErrNoResponders) }

// deniedError is a request that the server's permissions refused.
type deniedError struct{ error }

// Unwrap implements errors.Unwrap.
func (e deniedError) Unwrap() error { return e.error }

// Denied reports whether a request failed because the caller's credentials do not allow it.
func Denied(err error) bool {
	var d deniedError
	return errors.As(err, &d)
}

// Serve answers a service's verbs at hf.v1.api.<site>.<service>.<verb> until ctx ends, as a NATS micro service that
// discovery and statistics see. site is the server's: a service answers at its own site's server. Each request runs in a
// goroutine of its own, at most 256 at a time.
func (c *Conn) Serve(ctx context.Context, service string, endpoints map[string]Endpoint) error {
	svc, err := micro.AddService(c.nc, micro.Config{
		Name: strings.ReplaceAll("hf-"+service, ".", "-"), Version: "0.1.0",
		Metadata: map[string]string{"site": string(c.site)}, QueueGroupDisabled: true,
	})
	if err != nil {
		return fmt.Errorf("serve %s at site %s: %w", service, c.site, err)
	}
	context.AfterFunc(ctx, func() { _ = svc.Stop() })
	slots := make(chan struct{}, 256)
	for verb, endpoint := range endpoints {
		handle := func(req micro.Request) {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			c.gate.join()
			go func() {
				defer c.gate.leave()
				defer func() { <-slots }()
				c.answer(ctx, service, verb, req, endpoint)
			}()
		}
		err := svc.AddEndpoint(verb, micro.HandlerFunc(handle), micro.WithEndpointSubject(api.QuerySubject(c.site, service, verb)))
		if err != nil {
			return fmt.Errorf("serve %s.%s at site %s: %w", service, verb, c.site, err)
		}
	}
	c.settle(ctx)
	c.serving.Store(true)
	return nil
}

func (c *Conn) answer(ctx context.Context, service, verb string, req micro.Request, endpoint Endpoint) {
	rctx := traceContext.Extract(ctx, headerCarrier(req.Headers()))
	var reply any
	err := c.accept(req.Subject(), nats.Header(req.Headers()))
	if err == nil && c.guard != nil {
		if rctx, err = c.guard.check(rctx, c.site, service, verb, req.Subject(), req.Headers(), req.Data()); err != nil {
			c.log.Warn("request refused", "service", service, "verb", verb, "error", err)
		}
	}
	if !c.mayAnswer(rctx, req.Reply()) {
		c.log.Warn("request refused: it wants its answer elsewhere than in its caller's inbox", "service", service, "verb", verb, "reply", req.Reply())
		return
	}
	if err == nil {
		reply, err = endpoint(rctx, req.Data())
	}
	if ctx.Err() != nil {
		return // a service that was stopped answers nothing
	}
	// Not req.Respond and req.Error: they note errors in the request, which micro reads when the handler has returned, and
	// that was when this goroutine began.
	msg := nats.NewMsg(req.Reply())
	c.stamp(msg.Header)
	if err == nil {
		msg.Data, err = json.Marshal(reply)
	}
	if err != nil {
		msg.Header.Set(errorCodeHeader, domain.Code(err))
		msg.Header.Set(errorHeader, oneLine(err.Error()))
	}
	if err := c.nc.PublishMsg(msg); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		c.log.Debug("reply not sent", "error", err)
	}
}

// oneLine keeps a message fit for a header.
func oneLine(s string) string { return strings.NewReplacer("\r", " ", "\n", "; ").Replace(s) }
