package diskvoter

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// unit is a session's LUN, and how it compares and writes.
type unit struct {
	*initiator.Session
	stuck time.Duration // a reservation that one swap holds for longer was left by a client that died in it

	reserves atomic.Bool   // it has no COMPARE AND WRITE: each swap takes a reservation
	spoiled  atomic.Bool   // a write of it may still be on its way: the session must go, and what it has reserved is left to be taken
	turn     chan struct{} // of one: the swap that has the reservation, or waits for it. The fields below are its.

	rival  uint64 // the key that somebody else's reservation was seen under
	since  clock.Time
	settle clock.Time // until when what a preempted client has in flight may land
}

func newUnit(s *initiator.Session, timeout time.Duration) *unit {
	return &unit{Session: s, stuck: timeout + timeout/4, turn: make(chan struct{}, 1)}
}

// usable reports whether the session may go on.
func (u *unit) usable() bool { return u.Err() == nil && !u.spoiled.Load() }

// swap compares and writes one block, durably. Errors: initiator.ErrMiscompare, ErrNonconforming, ErrTaken; after any other it may have
// been written.
func (u *unit) swap(ctx context.Context, off int64, expect, replace []byte) error {
	if !u.reserves.Load() {
		err := u.CompareAndWrite(ctx, off, expect, replace)
		var status initiator.StatusError
		switch errors.As(err, &status); {
		case err == nil:
			return u.Flush(ctx)
		case status.Sense.Key == iscsi.SenseIllegalRequest && status.Sense.ASC == iscsi.ASCInvalidOpcode,
			status.Status == iscsi.StatusReservationConflict: // another site's session found none
			u.reserves.Store(true)
		case status.Sense.Key == iscsi.SenseIllegalRequest:
			return fmt.Errorf("%w: %w", ErrNonconforming, err)
		default:
			return err
		}
	}
	key, err := u.take(ctx)
	if err != nil {
		return err
	}
	have := make([]byte, len(expect))
	if err = u.ReadOnce(ctx, have, off); err == nil && !bytes.Equal(have, expect) {
		err = initiator.ErrMiscompare
	}
	if err == nil {
		if err = u.WriteOnce(ctx, replace, off); err != nil && !notDone(err) {
			u.spoiled.Store(true)
			<-u.turn
			return err
		}
		if err == nil {
			err = u.Flush(ctx)
		}
	}
	u.give(ctx, key)
	return err
}

// notDone reports whether an error says that a command was not carried out at all.
func notDone(err error) bool {
	var status initiator.StatusError
	return errors.Is(err, initiator.ErrReserved) ||
		errors.As(err, &status) && (status.Status == iscsi.StatusBusy || status.Status == iscsi.StatusTaskSetFull || status.Sense.Key == iscsi.SenseUnitAttention)
}

// keyMark is the beginning of every reservation key of a voter. The rest is drawn for each swap, so that a key which stays is a swap that
// does not end; the last bit says that it has ended, and that anybody may take the reservation. It is never given up: whoever stopped in a
// swap, and goes on when others have long ended theirs, must find it in another's hands.
const (
	keyMark = 0x4846_564f << 32 // "HFVO"
	keyFree = 1
)

func newKey() uint64 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return keyMark | uint64(binary.BigEndian.Uint32(b[:]))&^keyFree
}

// settleTime is waited after a reservation was taken from a client whose target cannot end what he has in flight (PREEMPT without ABORT):
// a write that passed before must have landed by then.
const settleTime = 5 * time.Second

// take waits for the turn in this process, and for the LUN's reservation: from then on nobody else writes, until give.
func (u *unit) take(ctx context.Context) (key uint64, err error) {
	select {
	case u.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, fmt.Errorf("another swap of this site does not end: %w", context.Cause(ctx))
	}
	key = newKey()
	if err = u.Register(ctx, key); err == nil {
		err = u.reserve(ctx, key)
	}
	if err != nil {
		<-u.turn
		var status initiator.StatusError
		if errors.As(err, &status) && status.Sense.Key == iscsi.SenseIllegalRequest {
			err = fmt.Errorf("%w, and takes no persistent reservation: %w", ErrNonconforming, err)
		}
		return 0, err
	}
	return key, nil
}

// reserve takes the reservation from whoever has ended his swap, or died in it.
func (u *unit) reserve(ctx context.Context, key uint64) error {
	for {
		err := u.Reserve(ctx, key)
		if err == nil {
			return clock.Sleep(ctx, u.settle.Sub(clock.Now()))
		}
		if !errors.Is(err, initiator.ErrReserved) {
			return err
		}
		holder, held, err := u.Holder(ctx)
		switch now := clock.Now(); {
		case err != nil:
			return err
		case !held: // by now
			continue
		case holder>>32<<32 != keyMark:
			return fmt.Errorf("%w, with the key 0x%x", ErrTaken, holder)
		case holder&keyFree != 0:
			if err := u.Preempt(ctx, key, holder, false); err != nil && !errors.Is(err, initiator.ErrReserved) {
				return err
			}
			continue
		case holder != u.rival:
			u.rival, u.since = holder, now
		case now.Sub(u.since) > u.stuck:
			if err := u.preempt(ctx, key, holder); err != nil {
				return err
			}
			continue
		}
		if err := clock.Sleep(ctx, time.Millisecond+mrand.N(4*time.Millisecond)); err != nil {
			return fmt.Errorf("the reservation of another site's swap: %w", err)
		}
	}
}

// preempt takes the reservation from a client that died in its swap; it is no error when it was taken already.
func (u *unit) preempt(ctx context.Context, key, victim uint64) error {
	err := u.Preempt(ctx, key, victim, true)
	var status initiator.StatusError
	if errors.As(err, &status) && status.Sense.Key == iscsi.SenseIllegalRequest {
		err = u.Preempt(ctx, key, victim, false)
		u.settle = clock.Now().Add(settleTime)
	}
	if errors.Is(err, initiator.ErrReserved) {
		return nil
	}
	return err
}

// give lets others take the reservation. Where that fails, they wait as for a client that died: see reserve.
func (u *unit) give(ctx context.Context, key uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.stuck)
	defer cancel()
	_ = u.Register(ctx, key|keyFree)
	<-u.turn
}
