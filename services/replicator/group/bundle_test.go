package group

import (
	"bytes"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// behind makes a target that takes nothing by itself, and gives the frames that it lacks.
func behind(t *testing.T, writes int) (c *cluster, t2 *sender, r *receiver, frames []windowFrame) {
	t.Helper()
	c = newCluster(t, domain.ModeAsync)
	c.boot("a", "b")
	c.promote("a", 257)
	c.nodes["a"].write(0, 0, block(1))
	c.follows("a", "b")
	b := c.nodes["b"].g
	end, err := b.begin(t.Context()) // no rejoin, so no other receiver takes what is meant for the test's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	b.stopReceiver()
	from := b.store.last() + 1
	for i := range writes {
		c.nodes["a"].write(i%2, int64(i)*4096, block(uint64(100+i)))
	}
	t2 = c.nodes["a"].g.current().senders.get("b")
	out := &outgoing{cursor: from}
	if full, err := t2.load(out, 64<<20); full || err != nil || out.cursor != c.nodes["a"].g.store.last()+1 {
		t.Fatalf("full %v, up to %d, %v", full, out.cursor, err)
	}
	return c, t2, &receiver{g: b, st: b.store, epoch: 257, apply: make(chan struct{}, 1)}, out.ready
}

func TestSmallFramesGoToAnAsyncTargetInBundles(t *testing.T) {
	_, s, r, frames := behind(t, 40)
	out := &outgoing{cursor: frames[0].first}
	full, err := s.load(out, bundleBytes)
	if err != nil || !full {
		t.Fatalf("%d frames are no bundle: %v", len(frames), err)
	}
	taken, raw := bundle(out.ready, bundleBytes)
	if taken < 2 || len(raw) > bundleBytes || len(raw)+len(out.ready[taken-1].raw)*2 < bundleBytes {
		t.Errorf("%d frames, %d bytes", taken, len(raw))
	}
	if err := r.take(t.Context(), raw); err != nil {
		t.Fatal(err)
	}
	if got := r.st.last(); got != frames[taken-1].last {
		t.Errorf("after a bundle up to %d the target is at %d", frames[taken-1].last, got)
	}
	large := []windowFrame{{raw: make([]byte, 1<<20)}, {raw: make([]byte, 8192)}}
	if taken, raw := bundle(large, bundleBytes); taken != 1 || len(raw) != 1<<20 {
		t.Errorf("a frame beyond a bundle goes alone: %d, %d bytes", taken, len(raw))
	}
	s.can(api.RejoinReply{})
	if most := s.bundled(); most != 0 {
		t.Error("a target that did not say so gets bundles")
	}
	s.can(api.RejoinReply{Bundles: true})
	s.mu.Lock()
	s.how = domain.ModeSync
	s.mu.Unlock()
	if most := s.bundled(); most != 0 {
		t.Error("writes wait for a bundle of a synchronous target")
	}
}

func TestADamagedFrameOfABundleIsRefusedAndWhatCameBeforeItKept(t *testing.T) {
	_, _, r, frames := behind(t, 6)
	_, raw := bundle(frames, bundleBytes)
	two := len(frames[0].raw) + len(frames[1].raw)
	damaged := bytes.Clone(raw)
	damaged[two+4096+17]++ // in the payload of the third
	for _, step := range []struct {
		what    string
		message []byte
		upTo    domain.LSN
	}{
		{"damage in the third", damaged, frames[1].last},
		{"an end in the middle of the third", raw[:two+4096], frames[1].last},
		{"a gap", raw[two+len(frames[2].raw):], frames[1].last},
		{"no frame at all", raw[:100], frames[1].last},
		{"all of them", raw, frames[len(frames)-1].last},
	} {
		if err := r.take(t.Context(), step.message); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if got := r.st.last(); got != step.upTo {
			t.Errorf("%s: the target is at %d, want %d", step.what, got, step.upTo)
		}
	}
}
