package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// EnsureAssets creates a site's own streams and buckets where they are missing. c must be the site's own server. With
// credentials only quorum may make them: for every other service it is an error, domain.ErrNotFound, while one is missing.
func (c *Conn) EnsureAssets(ctx context.Context) error {
	if c.creds != nil && c.creds.Principal().Service != api.ServiceQuorum {
		for _, s := range access.Streams() {
			if _, err := c.js.Stream(ctx, s); err != nil {
				return fmt.Errorf("look for stream %s at site %s: %w", s, c.site, mapJetStream(err))
			}
		}
		return nil
	}
	site := string(c.site)
	streams := []jetstream.StreamConfig{
		{Name: api.StreamEvents, Subjects: []string{"hf.v1.evt." + site + ".>"}, MaxAge: 30 * 24 * time.Hour, MaxBytes: 1 << 30, Duplicates: 2 * time.Minute},
		{Name: api.StreamRuns, Subjects: []string{"hf.v1.run.>"}, DenyDelete: true, DenyPurge: true, MaxMsgsPerSubject: 1, AllowMsgTTL: true}, // see Expire
		{Name: api.StreamAudit, Subjects: []string{"hf.v1.audit." + site + ".>"}, DenyDelete: true, DenyPurge: true},
		{Name: api.StreamCommands, Subjects: []string{"hf.v1.cmd." + site + ".>"}, Retention: jetstream.WorkQueuePolicy, MaxAge: time.Hour, Duplicates: 2 * time.Minute},
	}
	for _, s := range streams {
		s.Storage = jetstream.FileStorage
		if _, err := c.js.CreateOrUpdateStream(ctx, s); err != nil {
			return fmt.Errorf("create stream %s at site %s: %w", s.Name, c.site, err)
		}
	}
	for bucket, history := range map[string]uint8{api.BucketDesired: 20, api.BucketPosition: 1} {
		if _, err := c.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: bucket, History: history}); err != nil {
			return fmt.Errorf("create bucket %s at site %s: %w", bucket, c.site, err)
		}
	}
	return nil
}

// Record is one stored message.
type Record struct {
	Subject string
	Data    []byte
	Seq     uint64
	Headers map[string][]string
	Time    time.Time
}

// Append stores one message and returns its sequence once the server has it on disk. id, when given, makes a repeat within
// two minutes harmless. expectLast, when not nil, is the sequence the subject's last message must have (0: there is none);
// a mismatch is domain.ErrConflict.
func (c *Conn) Append(ctx context.Context, subject string, data []byte, id string, expectLast *uint64) (uint64, error) {
	msg := newMsg(ctx, subject, data)
	if id != "" {
		msg.Header.Set(nats.MsgIdHdr, id)
	}
	if expectLast != nil {
		msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(*expectLast, 10))
	}
	ack, err := c.js.PublishMsg(ctx, msg)
	if err != nil {
		return 0, fmt.Errorf("append %s at site %s: %w", subject, c.site, mapJetStream(err))
	}
	return ack.Sequence, nil
}

// Expire stores the newest message of a subject anew, to be removed by the server after a while, whole seconds; one that is to be removed
// already stays so. The stream keeps one message a subject, and nobody may delete from it. domain.ErrConflict when r is not the newest.
func (c *Conn) Expire(ctx context.Context, r Record, after time.Duration) error {
	if len(r.Headers[jetstream.MsgTTLHeader]) > 0 {
		return nil
	}
	msg := newMsg(ctx, r.Subject, r.Data)
	msg.Header.Set(jetstream.MsgTTLHeader, after.String())
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(r.Seq, 10))
	if _, err := c.js.PublishMsg(ctx, msg); err != nil {
		return fmt.Errorf("expire %s at site %s: %w", r.Subject, c.site, mapJetStream(err))
	}
	return nil
}

func mapJetStream(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence,
		errors.Is(err, jetstream.ErrKeyExists):
		return fmt.Errorf("%w: %w", domain.ErrConflict, err)
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted), errors.Is(err, jetstream.ErrMsgNotFound),
		errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrBucketNotFound):
		return fmt.Errorf("%w: %w", domain.ErrNotFound, err)
	case errors.As(err, &api):
		return err
	}
	return fmt.Errorf("%w: %w", domain.ErrUnavailable, err)
}

// Last reads the newest message of a subject. domain.ErrNotFound when there is none.
func (c *Conn) Last(ctx context.Context, stream, subject string) (Record, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return Record{}, fmt.Errorf("read stream %s at site %s: %w", stream, c.site, mapJetStream(err))
	}
	m, err := s.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return Record{}, fmt.Errorf("read %s at site %s: %w", subject, c.site, mapJetStream(err))
	}
	return Record{Subject: m.Subject, Data: m.Data, Seq: m.Sequence, Headers: m.Header, Time: m.Time}, nil
}

// Subjects lists the subjects of a stream that match a filter, with their message counts.
func (c *Conn) Subjects(ctx context.Context, stream, filter string) (map[string]uint64, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("read stream %s at site %s: %w", stream, c.site, mapJetStream(err))
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return nil, fmt.Errorf("list %s at site %s: %w", filter, c.site, mapJetStream(err))
	}
	return info.State.Subjects, nil
}

// Where a Follow begins: one of these, or a time as FromTime writes it.
const (
	FromNew   = "new"   // only what comes after
	FromStart = "start" // everything the stream still holds
)

// FromTime begins a Follow with what was stored at t or later.
func FromTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// Follow calls f for every message of a stream that matches one of the filters, in order, until ctx ends. It re-opens
// itself after a lost connection at the message after the last one handled. It returns an error only when it cannot
// begin. A work queue is not followed but worked: see Work.
func (c *Conn) Follow(ctx context.Context, stream string, filters []string, from string, f func(ctx context.Context, r Record)) error {
	cfg := jetstream.ConsumerConfig{
		FilterSubjects: filters, AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Minute,
		DeliverPolicy: jetstream.DeliverAllPolicy, InactiveThreshold: 5 * time.Minute, MemoryStorage: true,
	}
	var last uint64
	if from == FromNew {
		var err error
		if last, err = c.lastSeq(ctx, stream); err != nil {
			return err
		}
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, last+1
	}
	if t, err := time.Parse(time.RFC3339Nano, from); err == nil {
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &t
	}
	for {
		err := c.followOnce(ctx, stream, cfg, &last, f)
		if ctx.Err() != nil {
			return nil
		}
		c.log.Debug("follow re-opens", "stream", stream, "error", err)
		if last > 0 {
			cfg.DeliverPolicy, cfg.OptStartTime, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, nil, last+1
		}
		if err := clock.Sleep(ctx, reconnectWait); err != nil {
			return nil
		}
	}
}

func (c *Conn) lastSeq(ctx context.Context, stream string) (uint64, error) {
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return 0, fmt.Errorf("follow stream %s at site %s: %w", stream, c.site, mapJetStream(err))
	}
	return s.CachedInfo().State.LastSeq, nil
}

func (c *Conn) followOnce(ctx context.Context, stream string, cfg jetstream.ConsumerConfig, last *uint64, f func(context.Context, Record)) error {
	cons, err := c.js.CreateConsumer(ctx, stream, cfg)
	if err != nil {
		return err
	}
	it, err := cons.Messages(jetstream.PullHeartbeat(time.Second), jetstream.PullExpiry(5*time.Second))
	if err != nil {
		return err
	}
	defer it.Stop()
	return eachMessage(ctx, it, func(ctx context.Context, r Record, msg jetstream.Msg) error {
		if r.Seq > *last {
			f(ctx, r)
			*last = r.Seq
		}
		_ = msg.Ack()
		return nil
	})
}

// eachMessage calls f with each message and its trace until f or the iterator fails.
func eachMessage(ctx context.Context, it jetstream.MessagesContext, f func(context.Context, Record, jetstream.Msg) error) error {
	for {
		msg, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return err
		}
		rec := Record{Subject: msg.Subject(), Data: msg.Data(), Seq: meta.Sequence.Stream, Headers: msg.Headers(), Time: meta.Timestamp}
		if err := f(traceContext.Extract(ctx, headerCarrier(msg.Headers())), rec, msg); err != nil {
			return err
		}
	}
}

// AppendAfter is Append for a chain over several subjects: what must have sequence expectLast is the last message of any
// subject that matches filter (0: there is none). A lost race is domain.ErrConflict.
func (c *Conn) AppendAfter(ctx context.Context, subject string, data []byte, id, filter string, expectLast uint64) (uint64, error) {
	msg := newMsg(ctx, subject, data)
	if id != "" {
		msg.Header.Set(nats.MsgIdHdr, id)
	}
	msg.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(expectLast, 10))
	msg.Header.Set(jetstream.ExpectedLastSubjSeqSubjHeader, filter)
	ack, err := c.js.PublishMsg(ctx, msg)
	if err != nil {
		return 0, fmt.Errorf("append %s at site %s: %w", subject, c.site, mapJetStream(err))
	}
	return ack.Sequence, nil
}
