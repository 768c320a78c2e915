package objectvoter

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// ErrNonconforming is a store that does not put on condition as a vote needs.
var ErrNonconforming = errors.New("object store does not put on condition")

// racers is how many puts a probe sends at once, rounds how often.
const (
	racers = 8
	rounds = 4
)

// enrolled finds out once whether the store may hold votes. Until that is known nothing is read or swapped; a store that was found
// not to conform is refused until the service is started again.
func (b *Bucket) enrolled() error {
	b.enrolling.Lock()
	defer b.enrolling.Unlock()
	if b.probed {
		return b.refusal
	}
	err := b.probe()
	if err == nil || errors.Is(err, ErrNonconforming) {
		b.probed, b.refusal = true, err
	}
	return err
}

// Conform finds out, on an object of its own that it removes, whether the store writes on condition: over nothing only where there is
// nothing, over a tag only where it is the tag, once where several write at the same moment; and whether what was written is read at
// once. Whatever reads or swaps first does so anyway. Errors: domain.ErrRefused with ErrNonconforming, or domain.ErrUnavailable when
// it could not be tried.
func (b *Bucket) Conform() error { return b.enrolled() }

func (b *Bucket) probe() error {
	key := path.Join(b.cfg.Prefix, ".probe-"+rand.Text())
	err := b.conform(key)
	if rerr := b.remove(key); err == nil {
		err = rerr
	}
	if errors.Is(err, ErrNonconforming) {
		return fmt.Errorf("probe object store %s/%s: %w: %w", b.cfg.Endpoint, b.cfg.Bucket, domain.ErrRefused, err)
	}
	return err
}

func (b *Bucket) conform(key string) error {
	if err := b.put(key, "wrong", []byte("over nothing")); err == nil {
		return fmt.Errorf("%w: it wrote over a version that was never there (If-Match is ignored)", ErrNonconforming)
	} else if !errors.Is(err, errTaken) {
		return err
	}
	first, err := b.race(key, "")
	if err != nil {
		return err
	}
	for _, wrong := range []string{"", "wrong"} {
		if err := b.put(key, wrong, []byte("over another")); err == nil {
			return fmt.Errorf("%w: it wrote over a version that it was not told to (tag %q)", ErrNonconforming, wrong)
		} else if !errors.Is(err, errTaken) {
			return err
		}
	}
	if now, err := b.get(key); err != nil {
		return err
	} else if now.tag != first.tag || string(now.data) != string(first.data) {
		return fmt.Errorf("%w: it refused a write and changed the object all the same", ErrNonconforming)
	}
	before := first.tag
	for range rounds {
		next, err := b.race(key, before)
		if err != nil {
			return err
		}
		if next.tag == before {
			return fmt.Errorf("%w: two contents have the same tag", ErrNonconforming)
		}
		before = next.tag
	}
	return nil
}

// race puts several contents over the same tag at once and gives back the one that stayed. One may win.
func (b *Bucket) race(key, tag string) (stored, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var won []string
	var failed, busy error
	for range racers {
		wg.Go(func() {
			text := rand.Text()
			err := b.put(key, tag, []byte(text))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, text)
			case errors.Is(err, errBusy):
				busy = err
			case !errors.Is(err, errTaken):
				failed = err
			}
		})
	}
	wg.Wait()
	now, err := b.get(key)
	switch {
	case len(won) > 1:
		return stored{}, fmt.Errorf("%w: of %d writes over the same version %d were taken", ErrNonconforming, racers, len(won))
	case failed != nil:
		return stored{}, failed
	case err != nil:
		return stored{}, err
	case len(won) == 0 && busy != nil:
		return stored{}, busy
	case len(won) == 0:
		return stored{}, fmt.Errorf("%w: it refused every write over the version that it gave (tag %q)", ErrNonconforming, tag)
	case string(now.data) != won[0]:
		return stored{}, fmt.Errorf("%w: what it said to have written is not what is read", ErrNonconforming)
	}
	return now, nil
}
