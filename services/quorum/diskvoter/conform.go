package diskvoter

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

// Conform finds out whether the LUN may vote, as the first call of each session does anyway. Errors: domain.ErrRefused with
// ErrNonconforming or ErrForeign, or domain.ErrUnavailable when it could not be tried.
func (d *Disk) Conform() error {
	return d.call(func(context.Context, *unit, int64) error { return nil })
}

// conforms tries on the scratch block whether the LUN compares before it writes: a right expectation is written and read back, a
// wrong one changes nothing. Several sites may try at once.
func conforms(ctx context.Context, u *unit) error {
	for range probes {
		tried, err := conform(ctx, u)
		if tried || err != nil {
			return err
		}
	}
	return errors.New("other sites' probes are always first")
}

// conform is one attempt; tried is false when another site's came between.
func conform(ctx context.Context, u *unit) (tried bool, err error) {
	before, mine, other := make([]byte, u.BlockSize()), make([]byte, u.BlockSize()), make([]byte, u.BlockSize())
	if err := u.Read(ctx, before, scratchAt); err != nil {
		return false, err
	}
	for _, b := range [][]byte{mine, other} {
		_, _ = rand.Read(b) // never fails
	}
	switch err := u.swap(ctx, scratchAt, other, mine); {
	case err == nil:
		return true, fmt.Errorf("%w: it wrote over what it did not expect", ErrNonconforming)
	case !errors.Is(err, initiator.ErrMiscompare):
		return true, err
	}
	if err := u.swap(ctx, scratchAt, before, mine); errors.Is(err, initiator.ErrMiscompare) {
		return false, nil
	} else if err != nil {
		return true, err
	}
	after := make([]byte, u.BlockSize())
	if err := u.Read(ctx, after, scratchAt); err != nil {
		return true, err
	}
	if bytes.Equal(after, before) {
		return true, fmt.Errorf("%w: what it said to have written is not there", ErrNonconforming)
	}
	return true, nil
}

// excludes tries on the scratch block what swaps rely on where they take a reservation: while one session has it another one cannot
// write, whoever was preempted cannot either, and a reservation outlasts its session. It ends without one.
func (d *Disk) excludes(ctx context.Context, u *unit) error {
	rival, end, err := d.dial(ctx)
	if err != nil {
		return err
	}
	defer end()
	defer func() { _ = rival.Close() }()
	key, err := u.take(ctx)
	if err != nil {
		return err
	}
	defer u.give(ctx, key)
	block := make([]byte, u.BlockSize())
	if err := u.ReadOnce(ctx, block, scratchAt); err != nil {
		return err
	}
	if err := refused(rival.write(ctx, block), "another session wrote while it was reserved"); err != nil {
		return err
	}
	theirs := newKey()
	if err := rival.Register(ctx, theirs); err != nil {
		return err
	}
	if err := rival.preempt(ctx, theirs, key); err != nil {
		return err
	}
	if err := refused(u.write(ctx, block), "a session wrote whose reservation had been taken"); err != nil {
		return err
	}
	if err := rival.Close(); err != nil {
		return err
	}
	switch holder, held, err := u.Holder(ctx); {
	case err != nil:
		return err
	case !held:
		return fmt.Errorf("%w, and its persistent reservations end with their session", ErrNonconforming)
	case holder != theirs: // another site took this one, or its probe, for dead
		return fmt.Errorf("%w, with the key 0x%x, while it was probed", initiator.ErrReserved, holder)
	}
	if err := u.Register(ctx, key); err != nil {
		return err
	}
	err = u.preempt(ctx, key, theirs)
	u.preempted = false // nothing of the other session is in flight
	return err
}

// write writes the scratch block. Unit attentions that another session caused are told first, so they are passed over.
func (u *unit) write(ctx context.Context, block []byte) (err error) {
	for range probes {
		err = u.WriteOnce(ctx, block, scratchAt)
		if !notDone(err) || errors.Is(err, initiator.ErrReserved) {
			break
		}
	}
	if err != nil && !notDone(err) {
		u.spoiled.Store(true)
	}
	return err
}

// refused turns a write that should be refused and was not into what is wrong with the LUN.
func refused(err error, what string) error {
	switch {
	case errors.Is(err, initiator.ErrReserved):
		return nil
	case err == nil:
		return fmt.Errorf("%w, and its persistent reservations keep nobody out: %s", ErrNonconforming, what)
	}
	return err
}
