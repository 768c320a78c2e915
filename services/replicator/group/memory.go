package group

import (
	"sync"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// Memory is what the groups of a replicator share of its memory: frames kept for senders, and buffers that frames are built in. So
// it does not grow with the number of groups that are served but idle.
type Memory struct {
	serving atomic.Int64 // sessions that keep frames

	mu    sync.Mutex
	spare []*journal.Builder
}

const (
	windowsBytes = 256 << 20 // of all windows together
	flightsBytes = 256 << 20 // on their way to a site, of all groups together
	leastWindow  = 1 << 20   // of one, however many there are
	sparesKept   = 12        // buffers that wait for a frame; the others go
)

// window is how many bytes of frames one session may keep now.
func (m *Memory) window() int {
	return int(min(windowBytes, max(leastWindow, windowsBytes/max(m.serving.Load(), 1))))
}

// flight is how many bytes one sender may have on their way now: they wait in the memory of the target's NATS server.
func (m *Memory) flight() int {
	return int(min(int64(domain.DefaultWindow), max(leastWindow, flightsBytes/max(m.serving.Load(), 1))))
}

// builder gives a buffer for the next frame.
func (m *Memory) builder() *journal.Builder {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := len(m.spare)
	if n == 0 {
		return journal.NewBuilder()
	}
	b := m.spare[n-1]
	m.spare[n-1] = nil
	m.spare = m.spare[:n-1]
	return b
}

// take takes a buffer back.
func (m *Memory) take(b *journal.Builder) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.spare) < sparesKept {
		m.spare = append(m.spare, b)
	}
}
