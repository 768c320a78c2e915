package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// stream is where every site keeps its events for 30 days.
const stream = "HF_EVENTS"

// followLive handles events as they come. Up to 65536 of them (or 64 MiB) wait here while the receiver is slow; past that
// the client drops new ones, and this ends with the error, rather than going on with a gap nobody knows of.
func followLive(ctx context.Context, nc *nats.Conn, subject string, handle func(context.Context, []byte) error) error {
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if err := sub.SetPendingLimits(65536, 64<<20); err != nil {
		return err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return fmt.Errorf("read event: %w", err)
		}
		if err := handle(ctx, m.Data); err != nil {
			return err
		}
	}
}

// followStored handles the events of the site's stream, from the one after the last that was handled, and notes each one
// once it is. What was handled just before a crash may be handled again.
func followStored(ctx context.Context, nc *nats.Conn, subject string, pos position, handle func(context.Context, []byte) error) error {
	last, err := pos.read()
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	cons, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{subject}, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: last + 1})
	if err != nil {
		return fmt.Errorf("read stream %s: %w: leave STATE unset where the credentials may not (the principal reader may not), and events are posted live", stream, err)
	}
	messages, err := cons.Messages(jetstream.PullMaxMessages(64))
	if err != nil {
		return fmt.Errorf("read stream %s: %w", stream, err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("read event: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if err := handle(ctx, m.Data()); err != nil {
			return err
		}
		if err := pos.write(meta.Sequence.Stream); err != nil {
			return err
		}
	}
}

// position is the file that holds the sequence of the last event that was handled. One file belongs to one site.
type position string

func (p position) read() (uint64, error) {
	raw, err := os.ReadFile(string(p))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read position: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read position %s: %w: remove it to begin with the oldest event", string(p), err)
	}
	return n, nil
}

func (p position) write(seq uint64) error {
	f, err := os.CreateTemp(filepath.Dir(string(p)), ".position-*")
	if err != nil {
		return fmt.Errorf("write position: %w", err)
	}
	_, err = fmt.Fprintln(f, seq)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), string(p))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write position: %w", err), os.Remove(f.Name()))
	}
	return nil
}
