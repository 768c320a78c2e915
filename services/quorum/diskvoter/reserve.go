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

	reserves atomic.Bool   // each swap takes a reservation, COMPARE AND WRITE is not used
	spoiled  atomic.Bool   // what it has sent may still be on its way: the session must go, and what it has reserved is left to be taken
	shared   *atomic.Bool  // the disk's: others reserve it, so that every session from now on must
	turn     chan struct{} // of one: the swap that has the reservation, or waits for it. The fields below are its.

	seen      bool   // the LUN was seen reserved: from then on no write gets in but a holder's
	rival     uint64 // the key that somebody else's reservation was seen under
	since     clock.Time
	preempted bool       // a client was, and what he has in flight was not ended
	settle    clock.Time // until when what others have in flight may land
}

func newUnit(s *initiator.Session, timeout time.Duration, shared *atomic.Bool) *unit {
	u := &unit{Session: s, stuck: timeout + timeout/4, shared: shared, turn: make(chan struct{}, 1)}
	u.reserves.Store(shared.Load())
	return u
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
		case status.Status == iscsi.StatusReservationConflict:
			// Another site's session found none. What this one has sent of them must not arrive when it has the reservation itself.
			u.shared.Store(true)
			u.spoiled.Store(true)
			return err
		case status.Sense.Key == iscsi.SenseIllegalRequest && status.Sense.ASC == iscsi.ASCInvalidOpcode:
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

// settleTime is waited where what others have sent may still land: after a reservation was taken from a client whose target cannot end what
// he has in flight (PREEMPT without ABORT), and where nobody had reserved the LUN, so that a COMPARE AND WRITE may have passed before.
const settleTime = 5 * time.Second

var errSpoiled = errors.New("the session is given up: something that it sent may still be on its way")

// take waits for the turn in this process, and for the LUN's reservation: from then on nobody else writes, until give.
func (u *unit) take(ctx context.Context) (key uint64, err error) {
	select {
	case u.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, fmt.Errorf("another swap of this site does not end: %w", context.Cause(ctx))
	}
	err = errSpoiled // whoever had the turn before may have a write on its way, which a reservation of this session lets through
	if !u.spoiled.Load() {
		key, err = u.reserve(ctx)
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
func (u *unit) reserve(ctx context.Context) (key uint64, err error) {
	for {
		if key == 0 {
			key = newKey()
			if err := u.Register(ctx, key); err != nil {
				return 0, err
			}
		}
		pause := time.Millisecond + mrand.N(4*time.Millisecond)
		if err := u.Reserve(ctx, key); err == nil {
			rest := u.unsettled()
			if rest <= 0 {
				return key, nil
			}
			key, pause = 0, min(rest, u.stuck/4) // another key says that this client lives
		} else if !errors.Is(err, initiator.ErrReserved) {
			return 0, err
		} else if err := u.wrest(ctx, key); errors.Is(err, initiator.ErrReserved) {
			key = 0 // somebody was first. It may be this client that was preempted.
		} else if err != nil {
			return 0, err
		} else if u.rival == 0 {
			continue
		}
		if err := clock.Sleep(ctx, pause); err != nil {
			return 0, fmt.Errorf("the reservation of another site's swap: %w", err)
		}
	}
}

// unsettled is how long what others have in flight may still land, now that the LUN is reserved.
func (u *unit) unsettled() time.Duration {
	now := clock.Now()
	if !u.seen || u.preempted {
		u.seen, u.preempted, u.settle = true, false, now.Add(settleTime)
	}
	return u.settle.Sub(now)
}

// wrest takes the reservation from its holder if he has ended his swap or died in it; rival is 0 then, and his key while he may live.
// ErrReserved: somebody else did.
func (u *unit) wrest(ctx context.Context, key uint64) error {
	holder, held, err := u.Holder(ctx)
	now := clock.Now()
	switch {
	case err != nil:
		return err
	case !held: // by now, or this client is not registered any more
		return initiator.ErrReserved
	case holder>>32<<32 != keyMark:
		if u.Register(ctx, 0) != nil { // leave it as it was
			u.spoiled.Store(true)
		}
		return fmt.Errorf("%w, with the key 0x%x", ErrTaken, holder)
	case holder&keyFree != 0: // so he has waited for what could land, and nothing of his can
		u.seen, u.preempted, u.settle, u.rival = true, false, 0, 0
		return u.Preempt(ctx, key, holder, false)
	case !u.seen:
		u.seen, u.settle = true, now.Add(settleTime)
	}
	if holder != u.rival {
		u.rival, u.since = holder, now
	} else if now.Sub(u.since) > u.stuck {
		u.rival = 0
		return u.preempt(ctx, key, holder)
	}
	return nil
}

// preempt takes the reservation from a client that died in its swap. ErrReserved: it was taken already.
func (u *unit) preempt(ctx context.Context, key, victim uint64) error {
	err := u.Preempt(ctx, key, victim, true)
	var status initiator.StatusError
	if errors.As(err, &status) && status.Sense.Key == iscsi.SenseIllegalRequest {
		u.preempted = true
		err = u.Preempt(ctx, key, victim, false)
	}
	if errors.Is(err, initiator.ErrAmbiguous) {
		// It may be this client's and its victim's write still on its way: only the answer says that it is not. Another session preempts this
		// one, which waits for that answer.
		u.spoiled.Store(true)
	}
	return err
}

// give lets others take the reservation. Where that fails, they wait as for a client that died: see wrest. The session is given up then: what
// arrives late must not say of a later swap that it has ended.
func (u *unit) give(ctx context.Context, key uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.stuck)
	defer cancel()
	if u.Register(ctx, key|keyFree) != nil {
		u.spoiled.Store(true)
	}
	<-u.turn
}
