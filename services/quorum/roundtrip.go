package quorum

import (
	"slices"
	"sync"
	"time"
)

// roundTrips keeps how long a voter's last answers took.
type roundTrips struct {
	mu   sync.Mutex
	last [256]time.Duration
	n    int // ever noted
}

func (r *roundTrips) note(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last[r.n%len(r.last)] = d
	r.n++
}

// p99 is the 99th percentile of the answers that are kept, and their number.
func (r *roundTrips) p99() (time.Duration, int) {
	r.mu.Lock()
	kept := slices.Clone(r.last[:min(r.n, len(r.last))])
	r.mu.Unlock()
	if len(kept) == 0 {
		return 0, 0
	}
	slices.Sort(kept)
	return kept[(len(kept)*99+99)/100-1], len(kept)
}
