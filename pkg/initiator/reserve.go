package initiator

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// ErrReserved is a unit that another session has reserved, or whose reservation is no longer this session's. Nothing was done.
var ErrReserved = errors.New("reservation conflict")

// Register gives this session's nexus a reservation key, in place of the one it had (REGISTER AND IGNORE EXISTING KEY, SPC-4 6.16).
// A reservation that it holds goes on under the new one.
func (s *Session) Register(ctx context.Context, key uint64) error {
	return s.reserveOut(ctx, "register at", iscsi.RegisterAndIgnoreExisting, 0, 0, key)
}

// Reserve takes the unit for the session's writes alone (Write Exclusive), with the key it is registered with. It is no error where
// it has it already. ErrReserved: another one has it.
func (s *Session) Reserve(ctx context.Context, key uint64) error {
	return s.reserveOut(ctx, "reserve", iscsi.Reserve, iscsi.WriteExclusive, key, 0)
}

// Preempt takes the registration of whoever is registered with another key, and the reservation where it is his; with abort what he
// has in flight is ended first. ErrReserved: nobody is registered with it.
func (s *Session) Preempt(ctx context.Context, key, victim uint64, abort bool) error {
	action := iscsi.Preempt
	if abort {
		action = iscsi.PreemptAndAbort
	}
	return s.reserveOut(ctx, "preempt a reservation of", action, iscsi.WriteExclusive, key, victim)
}

func (s *Session) reserveOut(ctx context.Context, what string, action, kind byte, key, about uint64) error {
	r, err := s.exec(ctx, iscsi.PersistentReserveOutCDB(action, kind), nil, iscsi.PersistentReserveList(key, about), false)
	return s.reservationError(what, r, err)
}

func (s *Session) reservationError(what string, r result, err error) error {
	switch {
	case err == nil && r.status == iscsi.StatusGood:
		return nil
	case err == nil && r.status == iscsi.StatusReservationConflict:
		err = ErrReserved
	default:
		err = statusError(r, err)
	}
	return fmt.Errorf("%s %s: %w", what, s.url, err)
}

// Holder is the key of whoever has the unit reserved; held is false where nobody has.
func (s *Session) Holder(ctx context.Context) (key uint64, held bool, err error) {
	b := make([]byte, 24)
	r, err := s.exec(ctx, iscsi.PersistentReserveInCDB(iscsi.ReadReservation, uint16(len(b))), b, nil, true)
	if err = statusError(r, err); err != nil {
		return 0, false, fmt.Errorf("read the reservation of %s: %w", s.url, err)
	}
	if r.got < 8 || binary.BigEndian.Uint32(b[4:]) < 16 {
		return 0, false, nil
	}
	return binary.BigEndian.Uint64(b[8:]), true, nil
}

// ReadOnce reads whole blocks, in one command that is not repeated: a unit attention, which says that what was known of the unit may
// hold no more, is an error.
func (s *Session) ReadOnce(ctx context.Context, p []byte, off int64) error {
	lba, blocks, err := s.oneCommand("read", p, off)
	if err != nil {
		return err
	}
	r, err := s.onceBound(ctx, newCommand(iscsi.Read16CDB(lba, blocks), p, nil, true))
	if err == nil && r.status == iscsi.StatusGood && r.got != len(p) {
		err = fmt.Errorf("the target sent %d of %d bytes", r.got, len(p))
	}
	return s.reservationError("read", r, err)
}

// WriteOnce writes whole blocks as ReadOnce reads. After ErrReserved or a StatusError nothing was written; an error that wraps ErrAmbiguous
// says that it may have been.
func (s *Session) WriteOnce(ctx context.Context, p []byte, off int64) error {
	lba, blocks, err := s.oneCommand("write", p, off)
	if err != nil {
		return err
	}
	r, err := s.onceBound(ctx, newCommand(iscsi.Write16CDB(lba, blocks, false), nil, append([]byte(nil), p...), false))
	return s.reservationError("write", r, err)
}

func (s *Session) oneCommand(what string, p []byte, off int64) (lba uint64, blocks uint32, err error) {
	if err := s.aligned(what, off, int64(len(p))); err != nil {
		return 0, 0, err
	}
	if len(p) == 0 || len(p) > maxTransfer {
		return 0, 0, fmt.Errorf("%s %s: %d bytes in one command: %w", what, s.url, len(p), domain.ErrInvalid)
	}
	lba, blocks = s.blocks(off, len(p))
	return lba, blocks, nil
}

func (s *Session) onceBound(ctx context.Context, cmd *command) (result, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	return s.once(ctx, cmd)
}
