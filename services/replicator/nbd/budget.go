package nbd

import "sync"

// budget is an amount of memory that many share. Who asks for more than is left waits, first come first served.
type budget struct {
	mu      sync.Mutex
	free    int64
	waiting []*claim
}

// claim is one that waits.
type claim struct {
	n       int64
	granted chan struct{}
}

// try takes n when it is there and nobody waits.
func (b *budget) try(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) > 0 || n > b.free {
		return false
	}
	b.free -= n
	return true
}

// take waits for n; false when quit was closed before, and nothing is taken.
func (b *budget) take(n int64, quit <-chan struct{}) bool {
	b.mu.Lock()
	c := &claim{n: n, granted: make(chan struct{})}
	b.waiting = append(b.waiting, c)
	b.grant()
	b.mu.Unlock()
	select {
	case <-c.granted:
		return true
	case <-quit:
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-c.granted:
		b.free += n
	default:
		for i, other := range b.waiting {
			if other == c {
				b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
				break
			}
		}
	}
	b.grant() // the next in the row may be content with less
	return false
}

// give returns n.
func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.grant()
}

// grant serves those that wait, in order. Under mu.
func (b *budget) grant() {
	for len(b.waiting) > 0 && b.waiting[0].n <= b.free {
		b.free -= b.waiting[0].n
		close(b.waiting[0].granted)
		b.waiting = b.waiting[1:]
	}
}
