package diskvoter

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

var (
	// ErrCorrupt is a slot whose content cannot be believed.
	ErrCorrupt = errors.New("vote record on the disk is corrupt")
	// ErrForeign is a LUN that holds something else.
	ErrForeign = errors.New("the LUN is no voting disk and is not empty")
	// ErrOther is a voting disk, and not the one that this site votes on.
	ErrOther = errors.New("another voting disk answers")
	// ErrNonconforming is a LUN that does not swap as a vote needs it.
	ErrNonconforming = errors.New("the LUN does not compare and write")
	// ErrTaken is a LUN that somebody who is no voter has reserved.
	ErrTaken = errors.New("somebody else has the LUN reserved")
)

const (
	labelAt   = 0
	scratchAt = slotBytes
	slotsAt   = 2 * slotBytes
	// emptyBytes is what must be empty at least of a LUN that has no label yet: partition tables and file systems have their marks there,
	// btrfs the last, at 64 KiB.
	emptyBytes = 1 << 20
	// maxSlots bounds what votes take of a large LUN, to 16 MiB.
	maxSlots = 4094
	// probes is how many slots are looked at for a group's.
	probes   = 64
	minBytes = slotsAt + probes*slotBytes
)

// Disk is one site's client of a voting disk. Its methods may be called from any goroutine; each ends within the time-out.
type Disk struct {
	url     string
	name    string // the URL without its secret
	pin     string // the file that keeps the identity
	options initiator.Options
	timeout time.Duration
	id      atomic.Pointer[string] // of the LUN, once seen
	shared  atomic.Bool            // a session with COMPARE AND WRITE met the reservation of one without

	mu      sync.Mutex
	session *unit              // nil: none
	end     context.CancelFunc // of the session
	slots   int64              // of the session's LUN, once it was found to be the voting disk that it should be
	opening *opening           // nil: no attempt is under way
	closed  bool
	life    context.Context //nolint:containedctx // of every session: calls have none of their own
}

// New is a client of the disk at an iSCSI URL until ctx ends. pin is a file of this site's own that keeps which LUN it is. Nothing is
// connected before the first call; timeout bounds each.
func New(ctx context.Context, url, pin string, o initiator.Options, timeout time.Duration) *Disk {
	d := &Disk{url: url, name: "of quorum.disk", pin: pin, options: o, timeout: timeout, life: ctx}
	if u, err := initiator.ParseURL(url); err == nil {
		d.name = u.String()
	}
	return d
}

// call runs f with a session whose LUN is a voting disk. A session that failed is left.
func (d *Disk) call(f func(ctx context.Context, u *unit, slots int64) error) error {
	ctx, cancel := context.WithTimeout(d.life, d.timeout)
	defer cancel()
	u, slots, err := d.open(ctx)
	if err == nil {
		err = f(ctx, u, slots)
	}
	if err == nil {
		return nil
	}
	if u != nil && !u.usable() {
		d.drop(u)
	}
	for _, known := range []error{ErrCorrupt, ErrForeign, ErrOther, ErrNonconforming, ErrTaken, domain.ErrInvalid} {
		if errors.Is(err, known) {
			return fmt.Errorf("voting disk %s: %w: %w", d.name, domain.ErrRefused, err)
		}
	}
	return fmt.Errorf("voting disk %s: %w: %w", d.name, domain.ErrUnavailable, err)
}

// open is the session, once its LUN was found to be the voting disk that it should be. Whoever waits for it waits as long as his own
// ctx; the attempt goes on without him, so that calls which are impatient do not keep a slow disk from ever being opened.
func (d *Disk) open(ctx context.Context) (*unit, int64, error) {
	d.mu.Lock()
	if d.session != nil && !d.session.usable() {
		d.forget()
	}
	if d.session != nil && d.slots > 0 {
		defer d.mu.Unlock()
		return d.session, d.slots, nil
	}
	if d.opening == nil {
		d.opening = &opening{done: make(chan struct{})}
		go d.begin(d.opening, d.session)
	}
	o := d.opening
	d.mu.Unlock()
	select {
	case <-o.done:
		return o.session, o.slots, o.err
	case <-ctx.Done():
		return nil, 0, fmt.Errorf("it is still being opened: %w", context.Cause(ctx))
	}
}

// opening is one attempt to open the disk. What it came to stands once done is closed.
type opening struct {
	done    chan struct{}
	session *unit
	slots   int64
	err     error
}

// openTime bounds an attempt: a login and a dozen commands, at disks that write slowly too.
const openTime = 10 * time.Second

// begin makes an attempt, with the session there is or a new one.
func (d *Disk) begin(o *opening, u *unit) {
	ctx, cancel := context.WithTimeout(d.life, openTime)
	defer cancel()
	var end context.CancelFunc
	if u == nil {
		u, end, o.err = d.dial(ctx)
	}
	if o.err == nil {
		o.session = u
		o.slots, o.err = d.examine(ctx, u)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	defer close(o.done)
	d.opening = nil
	if end != nil && (o.session == nil || d.closed || !u.usable()) {
		end()
		return
	}
	if end != nil {
		d.session, d.end = u, end
	}
	if d.session == u {
		d.slots = o.slots
	}
}

// dial logs in. The session lasts until end is called, or the disk's life is over.
func (d *Disk) dial(ctx context.Context) (u *unit, end context.CancelFunc, err error) {
	life, end := context.WithCancel(d.life)
	defer context.AfterFunc(ctx, end)() // an attempt that takes too long
	s, err := initiator.Dial(life, d.url, d.options)
	if err != nil {
		end()
		return nil, nil, err
	}
	return newUnit(s, d.timeout, &d.shared), end, nil
}

// examine finds out whether a session's LUN is the voting disk that it should be, and how many slots it has.
func (d *Disk) examine(ctx context.Context, u *unit) (slots int64, err error) {
	l, err := label(ctx, u)
	if err == nil {
		err = d.same(l)
	}
	if err == nil {
		err = conforms(ctx, u)
	}
	if err == nil && u.reserves.Load() {
		err = d.excludes(ctx, u)
	}
	if err != nil {
		return 0, err
	}
	id := hex.EncodeToString(l.id[:])
	d.id.Store(&id)
	return int64(l.slots), nil
}

func (d *Disk) drop(u *unit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.session == u {
		d.forget()
	}
}

// forget leaves the session. Under mu.
func (d *Disk) forget() {
	d.end()
	d.session, d.slots = nil, 0
}

// Identity is which LUN it is, "" before the first call that found out.
func (d *Disk) Identity() string {
	if id := d.id.Load(); id != nil {
		return *id
	}
	return ""
}

// Close ends the session.
func (d *Disk) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.session == nil {
		return nil
	}
	defer d.forget()
	return d.session.Close()
}

// Slot is one group's record on the disk.
type Slot struct {
	d   *Disk
	key string
}

// Slot is the record of a cluster's group.
func (d *Disk) Slot(cluster string, group domain.GroupID) (*Slot, error) {
	if !domain.ValidToken(cluster) || !domain.ValidToken(string(group)) || len(cluster) > maxName || len(group) > maxName {
		return nil, fmt.Errorf("voting disk %s: cluster %q group %q: not a name: %w", d.name, cluster, group, domain.ErrInvalid)
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

func (sl *Slot) find(ctx context.Context, u *unit, slots int64) (found, error) {
	at := first(sl.key, slots)
	for range min(probes, slots) {
		f := found{off: slotsAt + at*slotBytes, block: make([]byte, u.BlockSize())}
		if err := u.Read(ctx, f.block, f.off); err != nil {
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
	return found{}, fmt.Errorf("no slot is free: give some installations another LUN: %w", domain.ErrInvalid)
}

// Read is the newest version and its record; version 0 and a zero record when nothing was ever written. The error wraps
// domain.ErrUnavailable, or domain.ErrRefused with ErrCorrupt, ErrForeign or ErrNonconforming.
func (sl *Slot) Read() (version uint64, rec core.Record, err error) {
	err = sl.d.call(func(ctx context.Context, u *unit, slots int64) error {
		f, err := sl.find(ctx, u, slots)
		version, rec = f.version, f.rec
		return err
	})
	return version, rec, err
}

// Swap writes rec as version expect+1 if and only if the newest version is expect. An error comes with core.SwapUnknown: the swap
// may have landed.
func (sl *Slot) Swap(expect uint64, rec core.Record) (core.Swapped, error) {
	how := core.SwapUnknown
	err := sl.d.call(func(ctx context.Context, u *unit, slots int64) error {
		next, err := encode(sl.key, expect+1, rec, u.BlockSize())
		if err != nil {
			return err
		}
		f, err := sl.find(ctx, u, slots)
		if err != nil {
			return err
		}
		if f.version != expect {
			how = core.SwapLost
			return nil
		}
		err = u.swap(ctx, f.off, f.block, next)
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
