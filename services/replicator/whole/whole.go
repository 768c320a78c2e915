// Package whole lets readers see a change as a whole: all of it or nothing. A file gives that for a page only: a read beside
// a write may hold some pages of each.
//
// Reads take no lock while there is no such change: a reader notes what Seen says, reads, and keeps what it read if Whole
// agrees. Else a change was at work meanwhile, and it reads again between Hold and Release, which wait for the change.
package whole

import (
	"sync"
	"sync/atomic"
)

// Guard guards the readers of one volume, or of several. The zero value is ready.
type Guard struct {
	seq atomic.Uint64 // odd while a change is at work
	mu  sync.RWMutex
}

// Begin begins a change that must be seen whole, End ends it. One change at a time; another waits.
func (g *Guard) Begin() {
	g.mu.Lock()
	g.seq.Add(1)
}

// End ends what Begin began.
func (g *Guard) End() {
	g.seq.Add(1)
	g.mu.Unlock()
}

// Seen is to be asked before a read.
func (g *Guard) Seen() uint64 { return g.seq.Load() }

// Whole reports, after a read, that no change was at work since Seen said seen.
func (g *Guard) Whole(seen uint64) bool { return seen&1 == 0 && g.seq.Load() == seen }

// Hold keeps changes from beginning until Release; several may hold at once.
func (g *Guard) Hold() { g.mu.RLock() }

// Release ends a Hold.
func (g *Guard) Release() { g.mu.RUnlock() }
