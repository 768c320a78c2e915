package layer

import (
	"errors"
	"testing"
)

// store is a medium in memory whose flush may fail.
type store struct {
	data []byte
	fail error
}

func (s *store) ReadAt(p []byte, off int64) (int, error)  { return copy(p, s.data[off:]), nil }
func (s *store) TryRead(p []byte, off int64) bool         { copy(p, s.data[off:]); return true }
func (s *store) WriteAt(p []byte, off int64) (int, error) { return copy(s.data[off:], p), nil }
func (s *store) Zero(off, n int64) error                  { clear(s.data[off : off+n]); return nil }
func (s *store) Unmap(off, n int64) error                 { return s.Zero(off, n) }
func (s *store) Extent(int64) (bool, int64, error)        { return true, int64(len(s.data)), nil }
func (s *store) Sync() error                              { return s.fail }
func (s *store) Close() error                             { return nil }

// lasting is a shadow that keeps what any life of the layer left.
type lasting struct{ bits []byte }

func (l lasting) Bits(n int64) ([]byte, bool, error) { return l.bits[:n], true, nil }

const wide = blocksPerMap * BlockSize // the bytes of one page of the map

func delta(t *testing.T, blocks *store, sh Shadow, size int64) *Layer {
	t.Helper()
	l, err := Delta(&store{data: make([]byte, 1<<20)}, blocks, sh, size, 0)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWhatALongerLifeOfALayerLeftInTheShadowIsGoneWhenItGrowsAgain(t *testing.T) {
	sh := lasting{make([]byte, 2*pageSize)}
	sh.bits[pageSize] = 1 // the first block of the second page
	l := delta(t, &store{data: make([]byte, 2*pageSize)}, sh, wide)
	if err := l.Grow(2 * wide); err != nil {
		t.Fatal(err)
	}
	if l.blocks.has(blocksPerMap) {
		t.Fatal("a block that was cut off is here again: its next write would not be made durable in the map")
	}
}

func TestALayerThatWasCutForgetsWhatWasBehind(t *testing.T) {
	blocks := &store{data: make([]byte, pageSize)}
	l := delta(t, blocks, nil, wide)
	l.mark(0, 70*BlockSize)
	l.Cut(3 * BlockSize)
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	if l.Held() != 3*BlockSize || blocks.data[0] != 7 || blocks.data[8] != 0 {
		t.Fatalf("%d bytes are held, the map begins %v", l.Held(), blocks.data[:9])
	}
}

func TestAFlushThatFailedIsMadeGoodByTheNext(t *testing.T) {
	blocks := &store{data: make([]byte, pageSize)}
	l := delta(t, blocks, nil, wide)
	l.mark(0, BlockSize)
	bad := errors.New("no flush")
	blocks.fail = bad
	if err := l.Sync(); !errors.Is(err, bad) {
		t.Fatalf("got %v", err)
	}
	blocks.fail, blocks.data = nil, make([]byte, pageSize) // nothing of the failed flush is there
	if err := l.Sync(); err != nil || blocks.data[0] != 1 {
		t.Fatalf("the map begins %v: %v", blocks.data[:1], err)
	}
}

// TestAMergeThatIsDoneAgainIsWholeOnTheMedium: the first attempt's marks were taken, and its map is not there.
func TestAMergeThatIsDoneAgainIsWholeOnTheMedium(t *testing.T) {
	low := &store{data: make([]byte, pageSize)}
	parent := delta(t, low, nil, 1<<20)
	child := delta(t, &store{data: make([]byte, pageSize)}, nil, 1<<20)
	child.mark(0, BlockSize)
	for range 2 {
		clear(low.data)
		if err := Merge(child, parent, func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if low.data[0]&1 != 1 {
		t.Fatal("the parent's map does not have the merged block")
	}
}
