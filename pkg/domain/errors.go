package domain

import "errors"

// The sentinels that cross packages and, by their Code, services.
var (
	// ErrStaleEpoch refuses an act whose epoch is lower than one already seen where it landed.
	ErrStaleEpoch = errors.New("stale epoch")
	// ErrNoLease refuses an act that needs a lease which is not held, or whose time is over.
	ErrNoLease = errors.New("no lease")
	// ErrNoQuorum means a majority of the votes could not be gathered.
	ErrNoQuorum = errors.New("no quorum")
	// ErrRefused is a safety check's no; asking again changes nothing until the cause is mended.
	ErrRefused = errors.New("refused")
	// ErrConflict is a lost compare-and-swap: the old value was not what the caller expected.
	ErrConflict = errors.New("conflict")
	// ErrNotFound names something that does not exist.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable is a peer or service that did not answer; the same call may be repeated.
	ErrUnavailable = errors.New("unavailable")
	// ErrInvalid is bad input.
	ErrInvalid = errors.New("invalid")
)

// codes are in the order in which they are looked for: what must not be repeated comes before what may be.
func codes() []struct {
	code string
	err  error
} {
	return []struct {
		code string
		err  error
	}{
		{"stale_epoch", ErrStaleEpoch}, {"no_lease", ErrNoLease}, {"refused", ErrRefused}, {"conflict", ErrConflict},
		{"invalid", ErrInvalid}, {"no_quorum", ErrNoQuorum}, {"not_found", ErrNotFound}, {"unavailable", ErrUnavailable},
	}
}

// Code is the wire form of the sentinel err wraps, "internal" when it wraps none. Of several it is the one that forbids
// most: stale_epoch before unavailable.
func Code(err error) string {
	for _, c := range codes() {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return "internal"
}

// FromCode is the sentinel of a wire code, nil for one that is unknown.
func FromCode(code string) error {
	for _, c := range codes() {
		if c.code == code {
			return c.err
		}
	}
	return nil
}
