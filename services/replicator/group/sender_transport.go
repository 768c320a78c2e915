package group

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// sentBytes is what streamed to a target in this session.
type sentBytes struct {
	wire   uint64 // as it was sent
	frames uint64 // as the journal has it
}

// opens keeps whether the target understands what its transport asks for. One of an older version gets frames as they are.
func (t *sender) opens(known []domain.Compression) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.packs = slices.Contains(known, t.via.Compression)
}

// compression is how resync data is sent to the target.
func (t *sender) compression() domain.Compression {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.packs {
		return domain.CompressionNone
	}
	return t.via.Compression
}

// packed is a frame as it streams to the target: never compressed where an acknowledgement waits for it.
func (t *sender) packed(raw []byte) []byte {
	if t.mode() == domain.ModeSync {
		return raw
	}
	return transport.Pack(raw, t.compression())
}

// streamRate is the limit of what streams to the target now; none where an acknowledgement waits for it.
func (t *sender) streamRate(now time.Time) domain.Rate {
	if t.mode() == domain.ModeSync {
		return 0
	}
	return t.via.Rate(now)
}

func (t *sender) count(wire, frames int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent.wire += uint64(wire)
	t.sent.frames += uint64(frames)
}
