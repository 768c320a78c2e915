package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Entry is one key's value at a revision.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Get reads a key. domain.ErrNotFound when it has no value.
func (c *Conn) Get(ctx context.Context, bucket, key string) (Entry, error) {
	kv, err := c.js.KeyValue(ctx, bucket)
	if err != nil {
		return Entry{}, fmt.Errorf("open bucket %s at site %s: %w", bucket, c.site, mapJetStream(err))
	}
	e, err := kv.Get(ctx, key)
	if err != nil {
		return Entry{}, fmt.Errorf("read %s/%s at site %s: %w", bucket, key, c.site, mapJetStream(err))
	}
	return Entry{Key: key, Value: e.Value(), Revision: e.Revision()}, nil
}

// CompareAndSwap writes a key whose revision must be `revision` (0: the key must not exist) and returns the new one.
// A lost race is domain.ErrConflict.
func (c *Conn) CompareAndSwap(ctx context.Context, bucket, key string, value []byte, revision uint64) (uint64, error) {
	kv, err := c.js.KeyValue(ctx, bucket)
	if err != nil {
		return 0, fmt.Errorf("open bucket %s at site %s: %w", bucket, c.site, mapJetStream(err))
	}
	var rev uint64
	if revision == 0 {
		rev, err = kv.Create(ctx, key, value)
	} else {
		rev, err = kv.Update(ctx, key, value, revision)
	}
	if err != nil {
		return 0, fmt.Errorf("write %s/%s at site %s: %w", bucket, key, c.site, mapJetStream(err))
	}
	return rev, nil
}

// Keys lists a bucket's keys. An empty bucket is no error.
func (c *Conn) Keys(ctx context.Context, bucket string) ([]string, error) {
	kv, err := c.js.KeyValue(ctx, bucket)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s at site %s: %w", bucket, c.site, mapJetStream(err))
	}
	keys, err := kv.Keys(ctx)
	if errors.Is(err, jetstream.ErrNoKeysFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list bucket %s at site %s: %w", bucket, c.site, mapJetStream(err))
	}
	return keys, nil
}

// WatchKeys calls f for every key's present value and then for each change, until ctx ends or the connection is lost: what
// watches at the server does not always outlive it, and the caller begins again, with every present value. The error tells why.
func (c *Conn) WatchKeys(ctx context.Context, bucket, filter string, f func(Entry)) error {
	lost := c.lost()
	kv, err := c.js.KeyValue(ctx, bucket)
	if err != nil {
		return fmt.Errorf("open bucket %s at site %s: %w", bucket, c.site, mapJetStream(err))
	}
	w, err := kv.Watch(ctx, filter)
	if err != nil {
		return fmt.Errorf("watch %s/%s at site %s: %w: %w", bucket, filter, c.site, domain.ErrUnavailable, err)
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return nil
			}
			if e != nil && e.Operation() == jetstream.KeyValuePut {
				f(Entry{Key: e.Key(), Value: e.Value(), Revision: e.Revision()})
			}
		case <-lost:
			return fmt.Errorf("watch %s/%s at site %s: %w: the connection was lost", bucket, filter, c.site, domain.ErrUnavailable)
		case <-ctx.Done():
			return nil
		}
	}
}
