package layer

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/filevolume"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/faultdisk"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

const (
	oracleSize = 32 * BlockSize
	sector     = 512
)

// device is a Medium on a disk that loses what was not flushed.
type device struct {
	*faultdisk.Volume
	size int64
}

func (d device) TryRead(p []byte, off int64) bool { _, err := d.ReadAt(p, off); return err == nil }
func (d device) Extent(off int64) (bool, int64, error) {
	return true, d.size - off, nil
}
func (d device) Close() error { return nil }

// memory is a Shadow that outlives a kill of the process, and no power cut.
type memory map[string][]byte

type shadow struct {
	m    memory
	name string
}

func (s shadow) Bits(n int64) ([]byte, bool, error) {
	b, kept := s.m[s.name]
	if !kept {
		b = make([]byte, n)
		s.m[s.name] = b
	}
	return b, kept, nil
}

// mutant is a safety measure taken away.
type mutant struct {
	noFlush, mapFirst, noShadow bool
}

func (m mutant) flush(l *Layer) error {
	switch {
	case m.noFlush:
		return nil
	case m.mapFirst && l.blocks != nil:
		return errors.Join(l.blocks.put(l.blocks.take()), l.data.Sync())
	}
	return flushInOrder(l)
}

// content is what a change gave a sector; acked says that the change was answered as done.
type content struct {
	b     []byte
	acked bool
}

// cell is what a sector may hold: the last durable content, or any written since.
type cell []content

// oracle drives a volume through changes, flushes, snapshots, merges, and cuts.
type oracle struct {
	rng    *rand.Rand
	disk   *faultdisk.Disk
	mem    memory
	m      mutant
	strict bool
	names  []string // of the layers, the top first; one alone is a plain file
	made   int
	cells  []cell
	frozen map[string][]byte // what a frozen layer showed

	layers []*Layer
	chain  *Chain
	v      *filevolume.Volume
	stamp  uint32
}

func (o *oracle) open() error {
	o.layers = nil
	for i, name := range o.names {
		data := device{o.disk.Volume(name, oracleSize), oracleSize}
		l := Base(data, oracleSize)
		if i < len(o.names)-1 {
			var sh Shadow
			if !o.m.noShadow {
				sh = shadow{o.mem, name}
			}
			var err error
			if l, err = Delta(data, device{o.disk.Volume(name+".map", MapSize(oracleSize)), MapSize(oracleSize)}, sh, oracleSize, oracleSize); err != nil {
				return err
			}
		}
		l.flush = o.m.flush
		o.layers = append(o.layers, l)
	}
	o.chain = NewChain(o.layers, nil)
	d := domain.DurabilityCached
	if o.strict {
		d = domain.DurabilityStrict
	}
	var err error
	o.v, err = filevolume.New(o.chain, filevolume.Settings{Name: "v", SizeBytes: oracleSize, Durability: d})
	return err
}

func (o *oracle) do(c target.Command) error {
	done := make(chan error, 1)
	o.v.Submit(&c, func(err error) { done <- err })
	return <-done
}

// change makes one random change and notes what its sectors may hold from now on.
func (o *oracle) change() {
	first := o.rng.IntN(oracleSize / sector)
	n := 1 + o.rng.IntN(24)
	if o.rng.IntN(2) == 0 { // whole blocks
		first, n = first/8*8, (n+7)/8*8
	}
	n = min(n, oracleSize/sector-first)
	c := target.Command{Op: target.OpWrite, Off: int64(first) * sector, Len: int64(n) * sector, FUA: o.rng.IntN(8) == 0}
	if o.rng.IntN(5) == 0 {
		c.Op = []target.Op{target.OpZero, target.OpUnmap}[o.rng.IntN(2)]
	}
	data := make([]byte, c.Len)
	if c.Op == target.OpWrite {
		for i := range n { // every sector differs from every other one that ever was
			o.stamp++
			copy(data[i*sector:], bytes.Repeat([]byte{byte(o.stamp), byte(o.stamp >> 8), byte(o.stamp >> 16), 0xa5}, sector/4))
		}
		c.Data = slices.Clone(data)
	}
	err := o.do(c)
	for i := range n {
		s := data[i*sector:][:sector]
		if at := &o.cells[first+i]; err == nil && (c.FUA || o.strict) {
			*at = cell{{s, true}}
		} else {
			*at = append(*at, content{s, err == nil})
		}
	}
}

func (o *oracle) flush() {
	if o.do(target.Command{Op: target.OpFlush}) == nil {
		o.settle()
	}
}

// settle notes that the last content of every sector is durable.
func (o *oracle) settle() {
	for i, c := range o.cells {
		o.cells[i] = c[len(c)-1:]
	}
}

func (o *oracle) snapshot() error {
	if len(o.names) > 4 {
		return nil
	}
	o.made++
	name := fmt.Sprint("layer", o.made)
	data := device{o.disk.Volume(name, oracleSize), oracleSize}
	top, err := Delta(data, device{o.disk.Volume(name+".map", MapSize(oracleSize)), MapSize(oracleSize)}, shadow{o.mem, name}, oracleSize, oracleSize)
	if err != nil {
		return nil
	}
	top.flush = o.m.flush
	if o.v.Freeze(func() error {
		o.chain.Push(top)
		o.names, o.layers = append([]string{name}, o.names...), append([]*Layer{top}, o.layers...)
		return nil
	}) != nil {
		return nil
	}
	o.settle()
	image, err := o.image(o.layers[1:])
	o.frozen[o.names[1]] = image
	return err
}

// merge takes out the layer below the top; what it froze is given up.
func (o *oracle) merge() {
	if len(o.names) < 3 {
		return
	}
	high, low := o.names[1], o.names[2]
	delete(o.frozen, low)
	if Merge(o.layers[1], o.layers[2], func() error { return nil }) != nil {
		return
	}
	if image, ok := o.frozen[high]; ok { // whoever named the upper one names the lower one
		o.frozen[low] = image
		delete(o.frozen, high)
	}
	o.chain.Drop(o.layers[1])
	o.names, o.layers = slices.Delete(o.names, 1, 2), slices.Delete(o.layers, 1, 2)
}

func (o *oracle) image(layers []*Layer) ([]byte, error) {
	b := make([]byte, oracleSize)
	_, err := NewChain(layers, nil).ReadAt(b, 0)
	return b, err
}

// restart ends a life, and judges what the next one finds.
func (o *oracle) restart() error {
	_ = o.v.Close()
	killed := o.rng.IntN(3) == 0
	o.disk.Restart(killed)
	if !killed {
		o.mem = memory{}
	}
	if err := o.open(); err != nil {
		return err
	}
	got, err := o.image(o.layers)
	if err != nil {
		return err
	}
	for i := range o.cells {
		s := got[i*sector:][:sector]
		if at := wrongAt(o.cells[i], s, killed); at >= 0 {
			return fmt.Errorf("sector %d byte %d holds what it must not (killed %v, %d contents allowed)", i, at, killed, len(o.cells[i]))
		}
		o.cells[i] = cell{{slices.Clone(s), true}}
	}
	for i, name := range o.names {
		if want, ok := o.frozen[name]; ok {
			if image, err := o.image(o.layers[i:]); err != nil || !bytes.Equal(image, want) {
				return fmt.Errorf("snapshot %s changed: %w", name, errors.Join(err, errors.New("differs")))
			}
		}
	}
	// What was found may be in the cache only: the next cut is judged from a flush.
	o.flush()
	return nil
}

// wrongAt is the first byte that none of the contents has. A kill loses nothing that was answered.
func wrongAt(allowed cell, got []byte, killed bool) int {
	if killed {
		for len(allowed) > 1 && slices.ContainsFunc(allowed[1:], func(c content) bool { return c.acked }) {
			allowed = allowed[1:]
		}
	}
	for i, b := range got {
		if !slices.ContainsFunc(allowed, func(c content) bool { return c.b[i] == b }) {
			return i
		}
	}
	return -1
}

func runSeed(seed uint64, m mutant) error {
	rng := rand.New(rand.NewPCG(seed, 0x1a7e5))
	o := &oracle{rng: rng, disk: faultdisk.New(seed), mem: memory{}, m: m, strict: rng.IntN(3) == 0, names: []string{"base"}, frozen: map[string][]byte{}}
	for range oracleSize / sector {
		o.cells = append(o.cells, cell{{make([]byte, sector), true}})
	}
	if err := o.open(); err != nil {
		return err
	}
	plain := rng.IntN(3) == 0 // a third of the seeds: one plain file, as `volume serve FILE` has
	for life := range 4 {
		o.disk.CutAfter(1 + rng.IntN(80))
		for range 60 {
			switch n := rng.IntN(20); {
			case n < 15:
				o.change()
			case n < 18:
				o.flush()
			case n < 19 && !plain:
				if err := o.snapshot(); err != nil && !o.disk.IsOff() {
					return fmt.Errorf("life %d: %w", life, err)
				}
			case !plain:
				o.merge()
			}
			if o.disk.IsOff() {
				break
			}
		}
		if err := o.restart(); err != nil {
			return fmt.Errorf("after life %d: %w", life, err)
		}
	}
	return o.v.Close()
}

// TestEveryFlushedWriteIsThereAfterAPowerCut is for a plain file and for layers: what was flushed, or written with FUA, is
// there after a cut that loses and tears the rest; no block shows another's content, and a snapshot does not change.
func TestEveryFlushedWriteIsThereAfterAPowerCut(t *testing.T) {
	seeds := uint64(3000)
	if testing.Short() {
		seeds = 60
	}
	if n, err := strconv.ParseUint(os.Getenv("HOLDFAST_SEEDS"), 10, 64); err == nil {
		seeds = n
	}
	for seed := range seeds {
		if err := runSeed(seed, mutant{}); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func TestTheOracleCatchesEveryMutant(t *testing.T) {
	for name, m := range map[string]mutant{"no flush": {noFlush: true}, "map before data": {mapFirst: true}, "no shadow": {noShadow: true}} {
		caught := false
		for seed := uint64(0); seed < 500 && !caught; seed++ {
			err := runSeed(seed, m)
			if caught = err != nil; caught {
				t.Logf("%s: caught by seed %d: %v", name, seed, err)
			}
		}
		if !caught {
			t.Errorf("%s: not caught", name)
		}
	}
}
