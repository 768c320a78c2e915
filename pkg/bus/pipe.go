package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// The pipe of a group and epoch is a bounded stream in memory at the target site. It may lose everything at any moment:
// frames are safe only in journals, and the sender sends again from its own what the target's has not acknowledged.

// CreatePipe makes the pipe at this server (the target's own), empty. An existing one is kept as it is.
func (c *Conn) CreatePipe(ctx context.Context, g domain.GroupID, e domain.Epoch, maxBytes int64) error {
	_, err := c.js.CreateStream(ctx, jetstream.StreamConfig{
		Name: api.PipeStream(g, e), Subjects: []string{api.PipeSubject(g, e)},
		Storage: jetstream.MemoryStorage, Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxBytes: maxBytes,
		Duplicates: 100 * time.Millisecond, // the expected sequence guards order; ids are not used
	})
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		return fmt.Errorf("create pipe of group %s epoch %s at site %s: %w", g, e, c.site, mapJetStream(err))
	}
	return nil
}

// SealPipe removes the pipe at this server: a writer of that epoch gets errors from then on. Sealing one that is gone succeeds.
func (c *Conn) SealPipe(ctx context.Context, g domain.GroupID, e domain.Epoch) error {
	err := c.js.DeleteStream(ctx, api.PipeStream(g, e))
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("seal pipe of group %s epoch %s at site %s: %w", g, e, c.site, mapJetStream(err))
	}
	return nil
}

// PurgePipe empties the pipe at this server. Its sequence goes on where it was, so a writer that opens it afterwards is
// its only one.
func (c *Conn) PurgePipe(ctx context.Context, g domain.GroupID, e domain.Epoch) error {
	s, err := c.js.Stream(ctx, api.PipeStream(g, e))
	if err == nil {
		err = s.Purge(ctx)
	}
	if err != nil {
		return fmt.Errorf("purge pipe of group %s epoch %s at site %s: %w", g, e, c.site, mapJetStream(err))
	}
	return nil
}

// Pipes lists the epochs of a group that have a pipe at this server.
func (c *Conn) Pipes(ctx context.Context, g domain.GroupID) ([]domain.Epoch, error) {
	prefix := api.PipeStream(g, 0)
	prefix = prefix[:len(prefix)-1]
	names := c.js.StreamNames(ctx)
	var out []domain.Epoch
	for name := range names.Name() {
		if len(name) > len(prefix) && name[:len(prefix)] == prefix {
			if n, err := strconv.ParseInt(name[len(prefix):], 10, 64); err == nil {
				out = append(out, domain.Epoch(n))
			}
		}
	}
	if err := names.Err(); err != nil {
		return nil, fmt.Errorf("list pipes of group %s at site %s: %w", g, c.site, mapJetStream(err))
	}
	return out, nil
}

// PipeWriter is the one writer of a pipe. It is broken by its first failure: open another after asking the target where
// it stands.
type PipeWriter struct {
	conn    *Conn
	js      jetstream.JetStream
	subject string
	next    uint64 // sequence the stream's last message has, when all that was sent has arrived
	group   domain.GroupID
	epoch   domain.Epoch
}

// OpenPipe takes the pipe of a group and epoch at this (the target's) server for writing. domain.ErrNotFound when it is
// sealed or was never made.
func (c *Conn) OpenPipe(ctx context.Context, g domain.GroupID, e domain.Epoch) (*PipeWriter, error) {
	s, err := c.js.Stream(ctx, api.PipeStream(g, e))
	if err != nil {
		return nil, fmt.Errorf("open pipe of group %s epoch %s at site %s: %w", g, e, c.site, mapJetStream(err))
	}
	info, err := s.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("open pipe of group %s epoch %s at site %s: %w", g, e, c.site, mapJetStream(err))
	}
	// A JetStream context of its own: its limit of messages in flight is this writer's.
	js, err := c.newJetStream(jetstream.WithPublishAsyncMaxPending(pipeInFlight), jetstream.WithPublishAsyncTimeout(requestTimeout))
	if err != nil {
		return nil, fmt.Errorf("open pipe of group %s epoch %s at site %s: %w", g, e, c.site, err)
	}
	return &PipeWriter{conn: c, js: js, subject: api.PipeSubject(g, e), next: info.State.LastSeq, group: g, epoch: e}, nil
}

// Send puts one frame into the pipe and does not wait: the result tells, once, whether the pipe took it (nil) or why not.
// That the pipe took it makes nothing durable; the target's position does. After an error the writer is of no further use.
// Send blocks while 256 frames are unanswered, and while the connection is made anew for new keys. The caller leaves frame alone
// until the result is there. Not for concurrent use.
func (w *PipeWriter) Send(ctx context.Context, frame []byte) (<-chan error, error) {
	// A frame that is under way when its connection is made anew would be missed only with the next one, or after its time.
	if err := w.conn.gate.enter(ctx); err != nil {
		return nil, fmt.Errorf("send frame of group %s epoch %s to site %s: %w: %w", w.group, w.epoch, w.conn.site, domain.ErrUnavailable, err)
	}
	msg := nats.NewMsg(w.subject)
	msg.Data = frame
	fut, err := w.js.PublishMsgAsync(msg, jetstream.WithExpectLastSequence(w.next), jetstream.WithStallWait(stallWait))
	if err != nil {
		w.conn.gate.leave()
		return nil, fmt.Errorf("send frame of group %s epoch %s to site %s: %w", w.group, w.epoch, w.conn.site, mapJetStream(err))
	}
	w.next++
	out := make(chan error, 1)
	go func() {
		defer w.conn.gate.leave()
		select {
		case <-fut.Ok():
			out <- nil
		case err := <-fut.Err():
			out <- fmt.Errorf("send frame of group %s epoch %s to site %s: %w", w.group, w.epoch, w.conn.site, mapJetStream(err))
		case <-ctx.Done():
			out <- ctx.Err()
		}
	}()
	return out, nil
}

// pipeMessages bounds what is asked for at once, beside its bytes: the client sets room aside for each.
const pipeMessages = 2048

// ReadPipe calls f with each frame of the pipe at this (the site's own) server, in order, and takes it out of the pipe when
// f returns nil. It begins with all that the pipe still holds, also what was delivered before and never taken. It ends with f's
// error, with domain.ErrNotFound when the pipe is sealed, with domain.ErrUnavailable when the connection is lost, or nil when
// ctx ends.
func (c *Conn) ReadPipe(ctx context.Context, g domain.GroupID, e domain.Epoch, f func(frame []byte) error) error {
	lost := c.lost()
	cons, err := c.pipeReader(ctx, api.PipeStream(g, e))
	if err != nil {
		return fmt.Errorf("read pipe of group %s epoch %s: %w", g, e, mapJetStream(err))
	}
	it, err := cons.Messages(jetstream.PullMaxMessagesWithBytesLimit(pipeMessages, 32<<20), jetstream.PullHeartbeat(time.Second), jetstream.PullExpiry(10*time.Second))
	if err != nil {
		return fmt.Errorf("read pipe of group %s epoch %s: %w", g, e, mapJetStream(err))
	}
	defer it.Stop()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-lost:
			stop()
		case <-reading.Done():
		}
	}()
	for {
		msg, err := it.Next(jetstream.NextContext(reading))
		switch {
		case ctx.Err() != nil:
			return nil
		case reading.Err() != nil:
			return fmt.Errorf("read pipe of group %s epoch %s: %w: the connection was lost", g, e, domain.ErrUnavailable)
		case errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrMsgIteratorClosed), errors.Is(err, jetstream.ErrStreamNotFound):
			return fmt.Errorf("read pipe of group %s epoch %s: %w: sealed", g, e, domain.ErrNotFound)
		case err != nil:
			return fmt.Errorf("read pipe of group %s epoch %s: %w: %w", g, e, domain.ErrUnavailable, err)
		}
		if err := f(msg.Data()); err != nil {
			return err
		}
		if err := msg.Ack(); err != nil {
			return fmt.Errorf("read pipe of group %s epoch %s: %w: %w", g, e, domain.ErrUnavailable, err)
		}
	}
}

// pipeConsumer is the name of a pipe's one consumer.
const pipeConsumer = "replicator"

// pipeReader makes the pipe's consumer anew. One that was there may have given frames to a connection that was dying, and would
// give them again only after half a minute, while the write that waits for them has its target lost after two seconds.
func (c *Conn) pipeReader(ctx context.Context, stream string) (jetstream.Consumer, error) {
	if err := c.js.DeleteConsumer(ctx, stream, pipeConsumer); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return nil, err
	}
	return c.js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{
		Durable: pipeConsumer, AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1, AckWait: 30 * time.Second, MemoryStorage: true,
	})
}
