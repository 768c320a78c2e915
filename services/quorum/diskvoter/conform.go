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
	return d.call(func(context.Context, *initiator.Session, int64) error { return nil })
}

// conforms tries on the scratch block whether the LUN compares before it writes: a right expectation is written and read back, a
// wrong one changes nothing. Several sites may try at once.
func conforms(ctx context.Context, s *initiator.Session) error {
	for range probes {
		tried, err := conform(ctx, s)
		if tried || err != nil {
			return err
		}
	}
	return errors.New("other sites' probes are always first")
}

// conform is one attempt; tried is false when another site's came between.
func conform(ctx context.Context, s *initiator.Session) (tried bool, err error) {
	before, mine, other := make([]byte, s.BlockSize()), make([]byte, s.BlockSize()), make([]byte, s.BlockSize())
	if err := s.Read(ctx, before, scratchAt); err != nil {
		return false, err
	}
	for _, b := range [][]byte{mine, other} {
		_, _ = rand.Read(b) // never fails
	}
	switch err := swap(ctx, s, scratchAt, other, mine); {
	case err == nil:
		return true, fmt.Errorf("%w: it wrote over what it did not expect", ErrNonconforming)
	case !errors.Is(err, initiator.ErrMiscompare):
		return true, err
	}
	if err := swap(ctx, s, scratchAt, before, mine); errors.Is(err, initiator.ErrMiscompare) {
		return false, nil
	} else if err != nil {
		return true, err
	}
	after := make([]byte, s.BlockSize())
	if err := s.Read(ctx, after, scratchAt); err != nil {
		return true, err
	}
	if bytes.Equal(after, before) {
		return true, fmt.Errorf("%w: what it said to have written is not there", ErrNonconforming)
	}
	return true, nil
}
