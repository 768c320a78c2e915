package group

import (
	"context"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// sentBytes is what streamed to a target in this session.
type sentBytes struct {
	wire   uint64 // as it was sent
	frames uint64 // as the journal has it
}

// can keeps whether the target understands what its transport asks for. One of an older version gets frames as they are, one by
// one.
func (t *sender) can(r api.RejoinReply) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opens, t.bundles, t.direct, t.changes = r.Compression, r.Bundles, r.Direct, r.VolumesChange
}

// Frames go to an asynchronous target in bundles, so that what a message costs at both sites is paid once for many small writes:
// once there are bundleBytes of them, or the oldest has waited for bundleWait.
const (
	bundleBytes = 256 << 10
	bundleWait  = 5 * time.Millisecond
)

// bundled reports how much of a bundle the target gets; 0: it gets frame by frame.
func (t *sender) bundled() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.how == domain.ModeSync || !t.bundles {
		return 0
	}
	return bundleBytes
}

// bundle takes from the ready frames what goes into one message.
func bundle(ready []windowFrame, most int) (taken int, raw []byte) {
	n := len(ready[0].raw)
	for taken = 1; taken < len(ready) && n+len(ready[taken].raw) <= most; taken++ {
		n += len(ready[taken].raw)
	}
	if taken == 1 {
		return 1, ready[0].raw
	}
	raw = make([]byte, 0, n)
	for _, f := range ready[:taken] {
		raw = append(raw, f.raw...)
	}
	return taken, raw
}

// compression is how resync data is sent to the target.
func (t *sender) compression() domain.Compression {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !slices.Contains(t.opens, t.via.Compression) {
		return domain.CompressionNone
	}
	return t.via.Compression
}

// packed is a frame, or a bundle, as it streams to the target: never compressed where an acknowledgement waits for it.
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
	return t.rate(now)
}

// rate is the limit that the policy in force sets for the target.
func (t *sender) rate(now time.Time) domain.Rate {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.via.Rate(now)
}

// window is how many bytes may be on their way to the target now: what the policy in force says, and no more than the target's pipe
// and the memory that all groups share take. A message that is larger goes alone.
func (t *sender) window() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.windowNow(t.how == domain.ModeSync)
}

// windowNow is the window; the largest where an acknowledgement waits for what is sent. Under mu.
func (t *sender) windowNow(waited bool) int {
	most := min(int(t.s.g.cfg.PipeBytes/2), t.s.g.cfg.Memory.flight())
	if waited {
		return most
	}
	return min(most, int(t.via.WindowBytes()))
}

// reserve waits until the window has room for a piece of a resync, or for ctx to end. What it reserves is given back by release.
func (t *sender) reserve(ctx context.Context, bytes int) error {
	for {
		t.mu.Lock()
		if t.flying == 0 || t.flying+bytes <= t.windowNow(false) {
			t.flying += bytes
			t.mu.Unlock()
			return nil
		}
		if t.room == nil {
			t.room = make(chan struct{})
		}
		room := t.room
		t.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (t *sender) release(bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flying -= bytes
	t.lookAgain()
}

// lookAgain lets those that wait for room look again. Under mu.
func (t *sender) lookAgain() {
	if t.room != nil {
		close(t.room)
		t.room = nil
	}
}

// onTheirWay keeps how many bytes of a stream are.
func (t *sender) onTheirWay(bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flying = bytes
}

// sendBy changes how the target is sent to, from the next message on; false when that is how it is.
func (t *sender) sendBy(via domain.Transport) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.via.Equal(via) {
		return false
	}
	t.via = via
	t.lookAgain()
	poke(t.wake)
	return true
}

// weight is the group's share of a link that is too small for all.
func (t *sender) weight() int { return transport.Weight(t.s.st.policy().Tier) }

// count adds a message that was sent; flying bytes are on their way with it.
func (t *sender) count(wire, frames, flying int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flying = flying
	t.sent.wire += uint64(wire)
	t.sent.frames += uint64(frames)
}
