package group

import (
	"bytes"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

func TestWhatIsNotedAheadStandsForTheRing(t *testing.T) {
	c := newCluster(t, domain.ModeAsync)
	c.boot("a")
	c.promote("a", 257)
	a := c.nodes["a"]
	first := a.g.store.last() + 1
	for i := range int64(8) {
		a.write(int(i%2), i*3*4096, bytes.Repeat(block(uint64(i)), 2))
	}
	s := a.g.store
	var frames []*journal.Frame
	if err := s.eachFrame(first, s.last(), func(f *journal.Frame) error { frames = append(frames, f); return nil }); err != nil {
		t.Fatal(err)
	}
	of := func(mark func(*extent.Set) error) *extent.Set {
		set := extent.New(s.sizes())
		if err := mark(set); err != nil {
			t.Fatal(err)
		}
		return set
	}
	holds := func(set, part *extent.Set) bool {
		both := set.Clone()
		both.Union(part)
		return bytes.Equal(both.Encode(), set.Encode())
	}
	for from := range frames {
		for to := from; to < len(frames); to++ {
			k := &track{}
			k.note(frames[max(0, from-2)], s.sizes()) // a frame is missing after it, or it comes again
			for _, f := range frames[from : to+1] {
				k.note(f, s.sizes())
			}
			ahead := k.takeAhead()
			if want := frames[from].FirstLSN - 1; ahead.upto != frames[to].LastLSN || from >= 2 && ahead.base != want {
				t.Fatalf("frames %d to %d: ahead of %d up to %d", from, to, ahead.base, ahead.upto)
			}
			for after := first - 1; after < s.last(); after++ {
				for upto := after + 1; upto <= s.last(); upto++ {
					want := of(func(set *extent.Set) error { return s.markFrames(set, after, upto) })
					got := of(func(set *extent.Set) error { return s.markSince(set, after, upto, ahead) })
					most := want.Clone()
					most.Union(ahead.set)
					if !holds(got, want) || !holds(most, got) {
						t.Fatalf("changes %d to %d, ahead of %d up to %d: %d bytes, want %d, at most %d", after+1, upto, ahead.base, ahead.upto, got.Bytes(), want.Bytes(), most.Bytes())
					}
				}
			}
		}
	}
	if (&track{}).takeAhead() != nil {
		t.Error("something is ahead of nothing")
	}
}
