package diskvoter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

var (
	// ErrCorrupt is a slot whose content cannot be believed.
	ErrCorrupt = errors.New("vote record on the disk is corrupt")
	// ErrForeign is a LUN that holds something else.
	ErrForeign = errors.New("the LUN is no voting disk and is not empty")
	// ErrNonconforming is a LUN that does not swap as a vote needs it.
	ErrNonconforming = errors.New("the LUN does not compare and write")
)

const (
	labelAt   = 0
	scratchAt = slotBytes
	slotsAt   = 2 * slotBytes
	// emptyBytes is what must be empty of a LUN that has no label yet: every file system and partition table leaves a mark there.
	emptyBytes = 64 << 10
	// probes is how many slots are looked at for a group's.
	probes   = 64
	minBytes = slotsAt + probes*slotBytes
)

// Disk is one site's client of a voting disk. Its methods may be called from any goroutine; each ends within the time-out.
type Disk struct {
	url     string
	options initiator.Options
	timeout time.Duration

	mu      sync.Mutex
	session *initiator.Session // nil: none
	end     context.CancelFunc // of the session
	checked bool               // the session's LUN has the label, and compares before it writes
	life    context.Context    //nolint:containedctx // of every session: calls have none of their own
}

// New is a client of the disk at an iSCSI URL until ctx ends. Nothing is connected before the first call; timeout bounds each.
func New(ctx context.Context, url string, o initiator.Options, timeout time.Duration) *Disk {
	return &Disk{url: url, options: o, timeout: timeout, life: ctx}
}

// call runs f with a session whose LUN is a voting disk. A session that failed is left.
func (d *Disk) call(f func(context.Context, *initiator.Session) error) error {
	ctx, cancel := context.WithTimeout(d.life, d.timeout)
	defer cancel()
	s, err := d.open(ctx)
	if err == nil {
		err = f(ctx, s)
	}
	if err == nil {
		return nil
	}
	if s != nil && s.Err() != nil {
		d.drop(s)
	}
	for _, known := range []error{ErrCorrupt, ErrForeign, ErrNonconforming, domain.ErrInvalid} {
		if errors.Is(err, known) {
			return fmt.Errorf("voting disk %s: %w: %w", d.url, domain.ErrRefused, err)
		}
	}
	return fmt.Errorf("voting disk %s: %w: %w", d.url, domain.ErrUnavailable, err)
}

func (d *Disk) open(ctx context.Context) (*initiator.Session, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session != nil && d.session.Err() != nil {
		d.forget()
	}
	if d.session == nil {
		dialled := make(chan struct{})
		life, cancel := context.WithCancel(d.life)
		stop := context.AfterFunc(ctx, func() {
			select {
			case <-dialled:
			default:
				cancel() // the attempt took too long
			}
		})
		s, err := initiator.Dial(life, d.url, d.options)
		close(dialled)
		stop()
		if err != nil {
			cancel()
			return nil, err
		}
		d.session, d.end = s, cancel
	}
	if d.checked {
		return d.session, nil
	}
	err := label(ctx, d.session)
	if err == nil {
		err = conforms(ctx, d.session)
	}
	d.checked = err == nil
	return d.session, err
}

func (d *Disk) drop(s *initiator.Session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session == s {
		d.forget()
	}
}

// forget leaves the session. Under mu.
func (d *Disk) forget() {
	d.end()
	d.session, d.checked = nil, false
}

// Close ends the session.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session == nil {
		return nil
	}
	defer d.forget()
	return d.session.Close()
}

// label makes an empty LUN a voting disk, and refuses what is neither.
func label(ctx context.Context, s *initiator.Session) error {
	if s.BlockSize() != 512 && s.BlockSize() != slotBytes {
		return fmt.Errorf("its blocks have %d bytes: want 512 or %d: %w", s.BlockSize(), slotBytes, domain.ErrInvalid)
	}
	if s.Capacity() < minBytes {
		return fmt.Errorf("it has %d bytes: make it %d at least: %w", s.Capacity(), minBytes, domain.ErrInvalid)
	}
	head := make([]byte, min(emptyBytes, s.Capacity()))
	if err := s.Read(ctx, head, labelAt); err != nil {
		return err
	}
	want := make([]byte, s.BlockSize())
	copy(want, labelMagic[:])
	switch {
	case [8]byte(head[:8]) == labelMagic:
		return nil
	case !empty(head):
		return fmt.Errorf("%w: give votes an empty LUN of their own", ErrForeign)
	}
	err := swap(ctx, s, labelAt, make([]byte, len(want)), want)
	if errors.Is(err, initiator.ErrMiscompare) {
		return label(ctx, s) // another site was first
	}
	return err
}

// swap compares and writes one block, durably. Errors: initiator.ErrMiscompare, ErrNonconforming; after any other it may have been
// written.
func swap(ctx context.Context, s *initiator.Session, off int64, expect, replace []byte) error {
	err := s.CompareAndWrite(ctx, off, expect, replace)
	var status initiator.StatusError
	if errors.As(err, &status) && status.Sense.Key == iscsi.SenseIllegalRequest {
		return fmt.Errorf("%w: %w", ErrNonconforming, err)
	}
	if err != nil {
		return err
	}
	return s.Flush(ctx)
}

// Slot is one group's record on the disk.
type Slot struct {
	d   *Disk
	key string
}

// Slot is the record of a cluster's group.
func (d *Disk) Slot(cluster string, group domain.GroupID) (*Slot, error) {
	if !domain.ValidToken(cluster) || !domain.ValidToken(string(group)) || len(cluster) > maxName || len(group) > maxName {
		return nil, fmt.Errorf("voting disk %s: cluster %q group %q: not a name: %w", d.url, cluster, group, domain.ErrInvalid)
	}
	return &Slot{d: d, key: key(cluster, group)}, nil
}

// found is where a group's record is, or would be.
type found struct {
	off     int64
	block   []byte // as it is there
	version uint64
	rec     core.Record
}

func (sl *Slot) find(ctx context.Context, s *initiator.Session) (found, error) {
	slots := (s.Capacity() - slotsAt) / slotBytes
	at := first(sl.key, slots)
	for range min(probes, slots) {
		f := found{off: slotsAt + at*slotBytes, block: make([]byte, s.BlockSize())}
		if err := s.Read(ctx, f.block, f.off); err != nil {
			return f, err
		}
		if empty(f.block) {
			return f, nil
		}
		k, version, rec, err := decode(f.block)
		if err != nil {
			return f, fmt.Errorf("the slot at byte %d: %w", f.off, err)
		}
		if k == sl.key {
			f.version, f.rec = version, rec
			return f, nil
		}
		at = (at + 1) % slots
	}
	return found{}, fmt.Errorf("no slot is free: make the LUN larger: %w", domain.ErrInvalid)
}

// Read is the newest version and its record; version 0 and a zero record when nothing was ever written. The error wraps
// domain.ErrUnavailable, or domain.ErrRefused with ErrCorrupt, ErrForeign or ErrNonconforming.
func (sl *Slot) Read() (version uint64, rec core.Record, err error) {
	err = sl.d.call(func(ctx context.Context, s *initiator.Session) error {
		f, err := sl.find(ctx, s)
		version, rec = f.version, f.rec
		return err
	})
	return version, rec, err
}

// Swap writes rec as version expect+1 if and only if the newest version is expect. An error comes with core.SwapUnknown: the swap
// may have landed.
func (sl *Slot) Swap(expect uint64, rec core.Record) (core.Swapped, error) {
	how := core.SwapUnknown
	err := sl.d.call(func(ctx context.Context, s *initiator.Session) error {
		next, err := encode(sl.key, expect+1, rec, s.BlockSize())
		if err != nil {
			return err
		}
		f, err := sl.find(ctx, s)
		if err != nil {
			return err
		}
		if f.version != expect {
			how = core.SwapLost
			return nil
		}
		err = swap(ctx, s, f.off, f.block, next)
		switch {
		case err == nil:
			how = core.SwapWon
		case errors.Is(err, initiator.ErrMiscompare):
			how = core.SwapLost
			return nil
		}
		return err
	})
	return how, err
}
