package bus

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// Events publishes a service's facts to its own site's stream, in order, in the background, each until it is stored.
// A fact that was already durable elsewhere loses nothing when the process dies before it is published; the publisher's
// start says again what still holds, under the same id.
type Events struct {
	conn    *Conn
	service string
	log     *slog.Logger
	queue   chan queued
	done    chan struct{}
}

type queued struct {
	ctx context.Context
	ev  event.Event
}

const eventQueue = 4096

// NewEvents starts the publisher; it ends with ctx.
func NewEvents(ctx context.Context, conn *Conn, service string, log *slog.Logger) *Events {
	e := &Events{conn: conn, service: service, log: log, queue: make(chan queued, eventQueue), done: make(chan struct{})}
	go e.run(ctx)
	return e
}

// Publish queues a fact under an id that is the same for a repeat of the same fact, for example "erp-258-epoch_granted".
// It never blocks: when 4096 facts wait (the site's NATS server is gone) the fact is logged and dropped, since whoever needs
// the truth asks the service that owns it.
func (e *Events) Publish(ctx context.Context, id string, f event.Fact) {
	ev, err := event.New(e.conn.site, e.service, id, time.Now(), f)
	if err != nil {
		e.log.Error("event not built", "error", err)
		return
	}
	carrier := propagation.MapCarrier{}
	traceContext.Inject(ctx, carrier)
	ev.TraceParent = carrier["traceparent"]
	select {
	case e.queue <- queued{context.WithoutCancel(ctx), ev}:
	default:
		e.log.Warn("event dropped: queue full", "type", ev.Type, "id", ev.ID)
	}
}

func (e *Events) run(ctx context.Context) {
	defer close(e.done)
	for {
		select {
		case q := <-e.queue:
			e.deliver(ctx, q)
		case <-ctx.Done():
			return
		}
	}
}

func (e *Events) deliver(ctx context.Context, q queued) {
	data, err := json.Marshal(q.ev)
	if err != nil {
		e.log.Error("event not encoded", "type", q.ev.Type, "error", err)
		return
	}
	for ctx.Err() == nil {
		pctx, cancel := context.WithTimeout(traceContext.Extract(ctx, propagation.MapCarrier{"traceparent": q.ev.TraceParent}), requestTimeout)
		asked := time.Now()
		_, err := e.conn.Append(pctx, q.ev.Subject, data, q.ev.ID, nil)
		cancel()
		if err == nil {
			return
		}
		if e.conn.trouble.isDenied(q.ev.Subject, asked) {
			e.log.Error("event dropped: this service may not publish it", "type", q.ev.Type, "id", q.ev.ID)
			return
		}
		e.log.Debug("event not stored yet", "type", q.ev.Type, "error", err)
		if clock.Sleep(ctx, reconnectWait) != nil {
			return
		}
	}
}

// FollowEvents calls f for each event of this server's site whose subject matches one of the filters (all with none), from
// FromNew or FromStart, in order, until ctx ends. The context carries the event's trace.
func (c *Conn) FollowEvents(ctx context.Context, filters []string, from string, f func(ctx context.Context, e event.Event, fact event.Fact)) error {
	if len(filters) == 0 {
		filters = []string{"hf.v1.evt." + string(c.site) + ".>"}
	}
	stream := "HF_EVENTS"
	return c.Follow(ctx, stream, filters, from, func(ctx context.Context, r Record) {
		e, fact, err := event.Decode(r.Data)
		if err != nil {
			c.log.Warn("event not readable", "subject", r.Subject, "error", err)
			return
		}
		if e.TraceParent != "" {
			ctx = traceContext.Extract(ctx, propagation.MapCarrier{"traceparent": strings.ToLower(e.TraceParent)})
		}
		f(ctx, e, fact)
	})
}
