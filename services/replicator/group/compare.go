package group

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"sort"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/hashmap"
)

// stretch is a part of a volume that one tree covers.
type stretch struct {
	volume      int
	off, length int64
	wanted      uint64 // bytes of it that are compared
}

// stretches gives those that hold anything of a set.
func stretches(sizes []int64, set *extent.Set) iter.Seq[stretch] {
	return func(yield func(stretch) bool) {
		var at stretch
		for run := range set.Runs(0) {
			for run.Len > 0 {
				begin := run.Off / hashmap.Stretch * hashmap.Stretch
				n := min(run.Len, begin+hashmap.Stretch-run.Off)
				if at.wanted > 0 && (at.volume != run.Volume || at.off != begin) {
					if !yield(at) {
						return
					}
					at.wanted = 0
				}
				at = stretch{volume: run.Volume, off: begin, length: min(hashmap.Stretch, sizes[run.Volume]-begin), wanted: at.wanted + uint64(n)}
				run.Off, run.Len = run.Off+n, run.Len-n
			}
		}
		if at.wanted > 0 {
			yield(at)
		}
	}
}

// hashStretch reads a stretch and hashes it.
func hashStretch(r io.ReaderAt, at stretch) (*hashmap.Tree, error) {
	buf := make([]byte, at.length)
	if _, err := r.ReadAt(buf, at.off); err != nil {
		return nil, err
	}
	return hashmap.Build(buf), nil
}

// zeroTrees gives the tree of so many zeroes; each is built once.
func zeroTrees() func(length int64) *hashmap.Tree {
	var mu sync.Mutex
	have := map[int64]*hashmap.Tree{}
	return func(length int64) *hashmap.Tree {
		mu.Lock()
		defer mu.Unlock()
		if have[length] == nil {
			have[length] = hashmap.Build(make([]byte, length))
		}
		return have[length]
	}
}

// resumed is what a stage held when it was opened: from an earlier resync that was never committed. Its records count as the
// copy's content for the comparison; what of them is no longer right is found by that, and sent over.
type resumed struct {
	bytes int64       // of the file
	set   *extent.Set // the blocks that the records cover

	index [][]staged // by volume, in order, without overlaps: the newest of each block

	mu    sync.Mutex
	trees map[stretch]*hashmap.Tree // the last ones that were asked for
}

// staged is a stretch of a volume as a record in the stage has it.
type staged struct {
	off, length int64
	at          int64 // of the payload in the file; -1: zeroes
}

// leftInStage reads a stage's file as far as it makes sense: up to the first record that is not whole, is not of whole blocks, or is a
// frame.
func leftInStage(f *os.File, sizes []int64) (left *resumed, err error) {
	left = &resumed{set: extent.New(sizes), index: make([][]staged, len(sizes)), trees: map[stretch]*hashmap.Tree{}}
	type placed struct {
		staged
		volume int
	}
	var all []placed
	errEnd := errors.New("as far as it goes")
	err = readRecords(bufio.NewReaderSize(io.NewSectionReader(f, 0, 1<<62), 1<<20), sizes, func(r record) error {
		whole := r.off%extent.Block == 0 && (r.length%extent.Block == 0 || r.off+r.length == sizes[r.volume])
		if r.kind == recordFrame || !whole {
			return errEnd
		}
		p := placed{staged{off: r.off, length: r.length, at: left.bytes + recordHeader}, int(r.volume)}
		if r.kind == recordZero {
			p.at = -1
		}
		all = append(all, p)
		left.bytes += recordHeader + int64(len(r.payload))
		return nil
	})
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return left, err // the disk's error, not a record's
	}
	for _, p := range slices.Backward(all) {
		left.place(p.volume, p.staged)
	}
	for _, v := range left.index {
		slices.SortFunc(v, func(a, b staged) int { return int(a.off/extent.Block - b.off/extent.Block) })
	}
	return left, nil
}

// place adds the blocks of a record that no newer one covers.
func (r *resumed) place(volume int, p staged) {
	for off := p.off; off < p.off+p.length; {
		end := off
		for end < p.off+p.length && !r.set.Has(volume, end) {
			end += extent.Block
		}
		if end == off {
			off += extent.Block
			continue
		}
		end = min(end, p.off+p.length)
		part := staged{off: off, length: end - off, at: p.at}
		if p.at >= 0 {
			part.at += off - p.off
		}
		r.index[volume] = append(r.index[volume], part)
		off = end
	}
	r.set.Mark(volume, p.off, p.length)
}

// stagedImage reads a volume with what was staged before over it.
type stagedImage struct {
	vol   io.ReaderAt
	file  *os.File
	index []staged
}

// ReadAt implements io.ReaderAt.
func (o stagedImage) ReadAt(p []byte, off int64) (int, error) {
	if n, err := o.vol.ReadAt(p, off); err != nil {
		return n, err
	}
	end := off + int64(len(p))
	i := sort.Search(len(o.index), func(i int) bool { return o.index[i].off+o.index[i].length > off })
	for ; i < len(o.index) && o.index[i].off < end; i++ {
		s := o.index[i]
		from, to := max(s.off, off), min(s.off+s.length, end)
		part := p[from-off : to-off]
		if s.at < 0 {
			clear(part)
			continue
		}
		if _, err := o.file.ReadAt(part, s.at+from-s.off); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// imageOf is what the copy has of a volume of the primary: nothing of one that is not its own.
func (s *store) imageOf(st *stage, volume int) io.ReaderAt {
	if volume < st.shared {
		return s.vols()[volume]
	}
	return nothing{}
}

// nothing is zeroes without an end.
type nothing struct{}

// ReadAt implements io.ReaderAt.
func (nothing) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

const treesKept = 8

// ResyncHash answers a primary's question for sums of this copy's image. b is the request as it came.
func (g *Group) ResyncHash(b []byte) ([]byte, error) {
	_, epoch, session, rest, err := parseResync(b)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	st := g.stage
	g.mu.Unlock()
	if st == nil || st.epoch != epoch || st.session != session {
		return nil, fmt.Errorf("resync group %s: no such stage: %w", g.id, domain.ErrConflict)
	}
	at, q, err := parseHashQuestion(rest, st.sizes)
	if err != nil {
		return nil, fmt.Errorf("resync group %s: %w", g.id, err)
	}
	tree, err := g.store.stageTree(st, at)
	if err != nil {
		return nil, fmt.Errorf("resync group %s: hash: %w", g.id, err)
	}
	answer, err := tree.Answer(q)
	if err != nil {
		return nil, fmt.Errorf("resync group %s: %w: %w", g.id, domain.ErrInvalid, err)
	}
	return answer, nil
}

func parseHashQuestion(b []byte, sizes []int64) (at stretch, q hashmap.Question, err error) {
	if len(b) < 10 {
		return at, q, fmt.Errorf("hash question of %d bytes: %w", len(b), domain.ErrInvalid)
	}
	at.volume, at.off = int(binary.LittleEndian.Uint16(b)), int64(binary.LittleEndian.Uint64(b[2:]))
	if at.volume >= len(sizes) || at.off < 0 || at.off%hashmap.Stretch != 0 || at.off >= sizes[at.volume] {
		return at, q, fmt.Errorf("hash question at %d of volume %d: %w", at.off, at.volume, domain.ErrInvalid)
	}
	at.length = min(hashmap.Stretch, sizes[at.volume]-at.off)
	if q, err = hashmap.DecodeQuestion(b[10:]); err != nil {
		return at, q, fmt.Errorf("%w: %w", domain.ErrInvalid, err)
	}
	return at, q, nil
}

// stageTree is the tree of a stretch of the old image with what was staged before over it. Neither changes while the stage
// is open, so it is kept for the questions that follow.
func (s *store) stageTree(st *stage, at stretch) (*hashmap.Tree, error) {
	r := st.resumed
	r.mu.Lock()
	tree := r.trees[at]
	r.mu.Unlock()
	if tree != nil {
		return tree, nil
	}
	f, err := os.Open(s.stagePath())
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	if tree, err = hashStretch(stagedImage{s.imageOf(st, at.volume), f, r.index[at.volume]}, at); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.trees) >= treesKept {
		clear(r.trees)
	}
	r.trees[at] = tree
	return tree, nil
}
