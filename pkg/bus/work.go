package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-dr/holdfast/pkg/clock"
)

// Work calls f for each message of a work-queue stream that matches filter, one at a time, through the durable consumer of
// that name, until ctx ends. A message is taken off the queue when f returns nil, so f makes its effect durable first; with an
// error, or when the process dies, it comes again. f must bear a repeat. It re-opens itself after a lost connection.
func (c *Conn) Work(ctx context.Context, stream, durable, filter string, f func(ctx context.Context, r Record) error) error {
	for ctx.Err() == nil {
		err := c.workOnce(ctx, stream, durable, filter, f)
		if ctx.Err() != nil {
			return nil
		}
		c.log.Debug("work queue re-opens", "stream", stream, "error", err)
		if clock.Sleep(ctx, reconnectWait) != nil {
			return nil
		}
	}
	return nil
}

func (c *Conn) workOnce(ctx context.Context, stream, durable, filter string, f func(context.Context, Record) error) error {
	cons, err := c.js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Durable: durable, FilterSubject: filter, AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxAckPending: 1,
	})
	if err != nil {
		return fmt.Errorf("open work queue %s: %w", stream, err)
	}
	it, err := cons.Messages(jetstream.PullMaxMessages(1), jetstream.PullHeartbeat(time.Second), jetstream.PullExpiry(5*time.Second))
	if err != nil {
		return err
	}
	defer it.Stop()
	return eachMessage(ctx, it, func(mctx context.Context, r Record, msg jetstream.Msg) error {
		if err := f(mctx, r); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			_ = msg.NakWithDelay(time.Second)
			return nil
		}
		return msg.DoubleAck(ctx)
	})
}
