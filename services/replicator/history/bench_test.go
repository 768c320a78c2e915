package history

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/sparse"
)

// file is a Base as a copy has it.
type file struct {
	*os.File
	size int64
}

func (f file) Extent(off int64) (bool, int64, error) { return sparse.Extent(f.File, f.size, off, 0) }

// BenchmarkApply is one 4 KiB block brought to a volume at a target, among 256 that are applied at once: without a history,
// with one when every block is overwritten for the first time since a checkpoint, and when most were before.
func BenchmarkApply(b *testing.B) {
	const size, batch = 256 << 20, 256
	for _, c := range []struct {
		name   string
		keep   bool
		blocks int64 // that are written to
		every  int   // batches between two checkpoints
	}{{"without", false, size / BlockSize, 0}, {"without-few-blocks", false, 1024, 0}, {"first-time", true, size / BlockSize, 16}, {"again-few-blocks", true, 1024, 1000}} {
		b.Run(c.name, func(b *testing.B) {
			dir := b.TempDir()
			f, err := os.Create(filepath.Join(dir, "base"))
			if err != nil {
				b.Fatal(err)
			}
			base := file{f, size}
			one := make([]byte, 1<<20)
			for i := range one {
				one[i] = byte(i) | 1
			}
			for off := int64(0); off < size; off += int64(len(one)) {
				if _, err := f.WriteAt(one, off); err != nil {
					b.Fatal(err)
				}
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			h, err := Open(Config{FS: vfs.OS(), Dir: dir, Base: []Base{base}, Sizes: []int64{size}, Keep: Keep{Age: time.Hour, Count: 100, Bytes: 1 << 30}})
			if err != nil {
				b.Fatal(err)
			}
			defer h.Close()
			rng := rand.New(rand.NewPCG(1, 1))
			data := make([]byte, BlockSize)
			b.SetBytes(BlockSize)
			n := 0
			for b.Loop() {
				if n%batch == 0 {
					ranges := make([]Range, batch)
					if c.keep && n/batch%c.every == 0 {
						if err := h.Take(Point{LSN: domain.LSN(n + 1), Epoch: 1, Time: time.Now(), Kind: KindCrash}); err != nil {
							b.Fatal(err)
						}
					}
					for i := range ranges {
						ranges[i] = Range{Off: rng.Int64N(c.blocks) * BlockSize, Len: BlockSize}
					}
					if err := h.Record(ranges); err != nil {
						b.Fatal(err)
					}
					for _, r := range ranges {
						data[0] = byte(n)
						if _, err := f.WriteAt(data, r.Off); err != nil {
							b.Fatal(err)
						}
					}
				}
				n++
			}
		})
	}
}
