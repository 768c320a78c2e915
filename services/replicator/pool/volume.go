package pool

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/filevolume"
	"github.com/holdfast-dr/holdfast/services/replicator/layer"
)

// volume is a volume or snapshot, open or not.
type volume struct {
	name  string
	rec   volumeRecord
	unit  *unit // nil: not open
	chain *layer.Chain
	err   error // why it could not be opened
}

// openLayer is a layer whose files are open. Layers are shared by the volumes above them.
type openLayer struct {
	*layer.Layer
	data, blocks medium
	live         *blockfile.Shadow
}

// medium is what a layer's data, or its map, is kept in: a blockfile.File.
type medium interface {
	layer.Medium
	Size() (int64, error)
	Truncate(size int64) error
}

type mediumOpener func(path string, mode blockfile.Mode) (medium, error)

func openFile(path string, mode blockfile.Mode) (medium, error) { return blockfile.Open(path, 0, mode) }

// Close lets go of the files and the memory.
func (l *openLayer) Close() error {
	err := l.Layer.Close()
	if l.live != nil {
		err = errors.Join(err, l.live.Close())
	}
	return err
}

func (p *Pool) sorted() []*volume {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*volume, 0, len(p.volumes))
	for _, v := range p.volumes {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b *volume) int { return cmp.Compare(a.name, b.name) })
	return out
}

// find is the volume of a name; domain.ErrNotFound.
func (p *Pool) find(name string) (*volume, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if v := p.volumes[name]; v != nil {
		return v, nil
	}
	if err := p.damaged[p.volumePath(name)]; err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("volume %s: %w in pool %s; see `holdfast volume list`", name, domain.ErrNotFound, p.dir)
}

// free refuses a name that is not valid, or taken.
func (p *Pool) free(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.volumes[name] != nil || p.damaged[p.volumePath(name)] != nil {
		return fmt.Errorf("volume %s: the name is taken; choose another: %w", name, domain.ErrConflict)
	}
	return nil
}

// lineage is a layer and all below it, the upper first.
func (p *Pool) lineage(id string) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for id != "" {
		r, ok := p.layers[id]
		if !ok {
			return nil, errors.Join(fmt.Errorf("layer %s is missing: %w", id, errDamaged), p.damaged[p.layerPath(id, "json")])
		}
		if out = append(out, id); len(out) > MaxDepth+1 {
			return nil, fmt.Errorf("layer %s: more than %d below one another: %w", id, MaxDepth, errDamaged)
		}
		id = r.Parent
	}
	return out, nil
}

// openVolume opens a volume's layers and the volume on them; it is nothing when that is done.
func (p *Pool) openVolume(v *volume) (err error) {
	if v.unit != nil {
		return nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open volume %s: %w", v.name, err), p.closeUnused())
		}
	}()
	layers, err := p.openLineage(v.rec.Layer)
	if err != nil {
		return err
	}
	id := filevolume.IdentityOf("volume\x00" + v.rec.ID)
	id.Product = "pool volume"
	chain := layer.NewChain(layers, nil)
	fv, err := filevolume.New(chain, filevolume.Settings{Name: v.name, SizeBytes: layers[0].Size(), Durability: v.rec.Durability,
		Identity: id, ReadOnly: v.rec.Of != "", DetectZeroes: true, Offload: p.io == blockfile.Direct, Full: tellFull(p.log.With("volume", v.name))})
	if err != nil {
		return err
	}
	p.mu.Lock()
	v.unit, v.chain = newUnit(fv, v.rec, p.keptPath(v.rec.ID)), chain
	p.mu.Unlock()
	return nil
}

// closeVolume makes a volume durable and lets go of the layers that no other open volume has.
func (p *Pool) closeVolume(v *volume) error {
	if v.unit == nil {
		return nil
	}
	err := v.unit.close()
	p.mu.Lock()
	v.unit, v.chain = nil, nil
	p.mu.Unlock()
	return errors.Join(err, p.closeUnused())
}

func (p *Pool) openLayer(id string) (*openLayer, error) {
	p.mu.Lock()
	l, rec := p.open[id], p.layers[id]
	p.mu.Unlock()
	if l != nil {
		return l, nil
	}
	l = &openLayer{}
	path := cmp.Or(rec.Device, p.layerPath(id, "data"))
	var err error
	if l.data, err = p.openMedium(path, p.io); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err = fit(l.data, rec.SizeBytes, rec.Device != ""); err == nil && rec.Parent == "" {
		l.Layer = layer.Base(l.data, rec.SizeBytes)
	} else if err == nil {
		err = l.openMap(p.openMedium, p.layerPath(id, "map"), p.layerPath(id, "live"), rec)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), l.data.Close())
	}
	p.mu.Lock()
	p.open[id] = l
	p.mu.Unlock()
	return l, nil
}

func (l *openLayer) openMap(open mediumOpener, path, live string, rec layerRecord) (err error) {
	if l.blocks, err = open(path, blockfile.Cached); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err = fit(l.blocks, layer.MapSize(rec.SizeBytes), false); err != nil {
		return errors.Join(err, l.blocks.Close())
	}
	if l.live, err = blockfile.OpenShadow(live); err != nil {
		return errors.Join(err, l.blocks.Close())
	}
	if l.Layer, err = layer.Delta(l.data, l.blocks, l.live, rec.SizeBytes, rec.LimitBytes); err != nil {
		return errors.Join(err, l.blocks.Close(), l.live.Close())
	}
	return nil
}

// openLineage opens a layer and all below it, the topmost first.
func (p *Pool) openLineage(id string) ([]*layer.Layer, error) {
	ids, err := p.lineage(id)
	if err != nil {
		return nil, err
	}
	layers := make([]*layer.Layer, 0, len(ids))
	for _, id := range ids {
		l, err := p.openLayer(id)
		if err != nil {
			return nil, err
		}
		layers = append(layers, l.Layer)
	}
	return layers, nil
}

// fit cuts off what an operation that did not end left behind the end of a layer. A file that is too short has lost data.
func fit(f medium, size int64, outside bool) error {
	has, err := f.Size()
	switch {
	case err != nil:
		return err
	case has < size:
		return fmt.Errorf("it has %d bytes of %d: %w; restore it from a copy", has, size, errDamaged)
	case has > size && !outside:
		return errors.Join(f.Truncate(size), f.Sync())
	}
	return nil
}

// cut makes an open layer as short as its record, which is durable: nothing behind its end may come back when it grows.
func cut(l *openLayer, rec layerRecord) error {
	l.Cut(rec.SizeBytes)
	return errors.Join(fit(l.data, rec.SizeBytes, rec.Device != ""), l.Sync())
}

// closeUnused closes layers that no open volume has.
func (p *Pool) closeUnused() error {
	used := map[string]bool{}
	for _, v := range p.sorted() {
		if v.unit == nil {
			continue
		}
		ids, err := p.lineage(v.rec.Layer)
		if err != nil {
			return err
		}
		for _, id := range ids {
			used[id] = true
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	for id, l := range p.open {
		if !used[id] {
			err = errors.Join(err, l.Close())
			delete(p.open, id)
		}
	}
	return err
}

// allocated is the space that a layer's files take.
func (p *Pool) allocated(id string, rec layerRecord) int64 {
	var sum int64
	for _, path := range []string{cmp.Or(rec.Device, p.layerPath(id, "data")), p.layerPath(id, "map"), p.layerPath(id, "live")} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err == nil {
			sum += st.Blocks * 512
		}
	}
	return sum
}

// newLayer makes a layer's files and record durable, in this order, and returns its id.
func (p *Pool) newLayer(rec layerRecord) (string, error) {
	id := newID(8)
	if rec.Device == "" {
		if err := filevolume.Create(p.layerPath(id, "data"), rec.SizeBytes); err != nil {
			return "", err
		}
	}
	if rec.Parent != "" {
		if err := zeroFile(p.layerPath(id, "map"), 0, layer.MapSize(rec.SizeBytes)); err != nil {
			return "", err
		}
	}
	return id, p.putLayer(id, rec)
}

func (p *Pool) putLayer(id string, rec layerRecord) error {
	if err := writeRecord(p.layerPath(id, "json"), "layer", rec); err != nil {
		return err
	}
	p.mu.Lock()
	p.layers[id] = rec
	p.mu.Unlock()
	p.step("layer record")
	return nil
}

func (p *Pool) putVolume(name string, rec volumeRecord) error {
	if err := writeRecord(p.volumePath(name), "volume", rec); err != nil {
		return err
	}
	p.mu.Lock()
	if v := p.volumes[name]; v != nil {
		v.rec = rec
	} else {
		p.volumes[name] = &volume{name: name, rec: rec}
	}
	p.mu.Unlock()
	p.step("volume record")
	return nil
}

// zeroFile writes zeroes from one length of a file to another: a map takes its space when it is made, so that a full disk
// never makes a flush fail.
func zeroFile(path string, from, to int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	buf := make([]byte, min(1<<20, to-from))
	for off := from; off < to && err == nil; off += int64(len(buf)) {
		_, err = f.WriteAt(buf[:min(int64(len(buf)), to-off)], off)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("make map %s: %w", path, err)
	}
	return nil
}
