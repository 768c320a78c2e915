package pool

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/layer"
)

// snapshot freezes a volume as it is, at a point between all its changes, under a new name.
func (p *Pool) snapshot(r Request) error {
	v, err := p.find(r.Name)
	if err != nil {
		return err
	}
	if err := p.free(r.New); err != nil {
		return err
	}
	if v.rec.Of != "" {
		return fmt.Errorf("snapshot volume %s: it is a snapshot itself; clone it: %w", r.Name, domain.ErrRefused)
	}
	frozen, err := p.freeze(v)
	if err != nil {
		return fmt.Errorf("snapshot volume %s: %w", r.Name, err)
	}
	return p.begin(r.New, volumeRecord{ID: newID(16), Layer: frozen, Created: time.Now().UTC(), Of: r.Name, Durability: v.rec.Durability})
}

// clone makes a volume that begins as another is, or as a snapshot is.
func (p *Pool) clone(r Request) error {
	v, err := p.find(r.Name)
	if err != nil {
		return err
	}
	if err := p.free(r.New); err != nil {
		return err
	}
	frozen := v.rec.Layer
	if v.rec.Of == "" {
		if frozen, err = p.freeze(v); err != nil {
			return fmt.Errorf("clone volume %s: %w", r.Name, err)
		}
	}
	id, err := p.over(frozen, MaxDepth)
	if err != nil {
		return fmt.Errorf("clone volume %s: %w", r.Name, err)
	}
	return p.begin(r.New, volumeRecord{ID: newID(16), Layer: id, Created: time.Now().UTC(), Origin: r.Name, Durability: v.rec.Durability})
}

// over makes a new layer, empty, over a frozen one, below which there may be one less than most.
func (p *Pool) over(parent string, most int) (string, error) {
	ids, err := p.lineage(parent)
	if err != nil {
		return "", err
	}
	if len(ids) >= most {
		return "", fmt.Errorf("there are %d layers below it already; delete snapshots that it has no more need of: %w", len(ids), domain.ErrRefused)
	}
	p.mu.Lock()
	size := p.layers[parent].SizeBytes
	p.mu.Unlock()
	return p.newLayer(layerRecord{Parent: parent, SizeBytes: size, LimitBytes: size})
}

// freeze puts a new layer on top of a volume, and returns the one that does not change any more.
func (p *Pool) freeze(v *volume) (frozen string, err error) { return p.freezeTo(v, MaxDepth) }

// freezeTo is freeze of a volume that may have so many layers afterwards.
func (p *Pool) freezeTo(v *volume, most int) (frozen string, err error) {
	frozen = v.rec.Layer
	id, err := p.over(frozen, most)
	if err != nil {
		return "", err
	}
	return frozen, p.opened(v, func() error {
		top, err := p.openLayer(id)
		if err != nil {
			return err
		}
		return v.unit.Freeze(func() error {
			rec := v.rec
			rec.Layer = id
			if err := p.moved(v, rec); err != nil {
				return err
			}
			v.chain.Push(top.Layer)
			return nil
		})
	})
}

// freezeTops gives each served volume that is the only reader of a layer without a name a new top, so that its old one can
// be merged into that layer while initiators write. One layer more than a volume may have is allowed for it, since the merge
// takes it away again, and what is wrong with one volume does not keep the others from it.
func (p *Pool) freezeTops() error {
	var errs error
	for _, v := range p.sorted() {
		if v.unit == nil || v.rec.Of != "" {
			continue
		}
		parent := p.layerOf(v).Parent
		if readers, named := p.readers(parent); parent == "" || named || len(readers) > 1 {
			continue
		}
		if _, err := p.freezeTo(v, MaxDepth+1); err != nil {
			errs = errors.Join(errs, fmt.Errorf("volume %s: %w", v.name, err))
		}
	}
	return errs
}

// readers are the layers over a layer; named says that a volume or snapshot is that layer.
func (p *Pool) readers(id string) (over []string, named bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for o, r := range p.layers {
		if r.Parent == id {
			over = append(over, o)
		}
	}
	for _, v := range p.volumes {
		named = named || v.rec.Layer == id
	}
	return over, named
}

// compact merges every layer that has no name and one reader with that reader.
func (p *Pool) compact(more func() error) error {
	for len(p.damaged) == 0 {
		parent, child := p.mergeable()
		if parent == "" {
			return p.collapse()
		}
		if err := p.merge(parent, child, more); err != nil {
			return err
		}
	}
	return nil
}

// mergeable finds a layer without a name that one layer is over, to which nobody writes.
func (p *Pool) mergeable() (parent, child string) {
	p.mu.Lock()
	ids := slices.Sorted(maps.Keys(p.layers))
	p.mu.Unlock()
	for _, id := range ids {
		if over, named := p.readers(id); !named && len(over) == 1 && !p.live(over[0]) && p.fits(over[0], id) {
			return id, over[0]
		}
	}
	return "", ""
}

// fits reports whether a layer can be merged into the one below: a device cannot be made longer.
func (p *Pool) fits(child, parent string) bool {
	low := p.recordOf(parent)
	return low.Device == "" || p.recordOf(child).SizeBytes <= low.SizeBytes
}

// live reports whether a volume that is served writes to a layer.
func (p *Pool) live(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, v := range p.volumes {
		if v.rec.Layer == id && v.rec.Of == "" && v.unit != nil {
			return true
		}
	}
	return false
}

// merge copies the child's blocks into its parent, which then takes its place.
func (p *Pool) merge(parent, child string, more func() error) error {
	low, err := p.openLayer(parent)
	if err != nil {
		return err
	}
	high, err := p.openLayer(child)
	if err != nil {
		return err
	}
	lowRec, highRec := p.recordOf(parent), p.recordOf(child)
	if err := p.matchLength(parent, low, &lowRec, highRec.SizeBytes); err != nil {
		return err
	}
	if err := layer.Merge(high.Layer, low.Layer, more); err != nil {
		return errors.Join(err, p.closeUnused())
	}
	p.step("merged")
	if err := p.putLayer(parent, lowRec); err != nil {
		return err
	}
	if err := cut(low, lowRec); err != nil {
		return err
	}
	if err := p.replace(child, parent, high.Layer); err != nil {
		return err
	}
	return errors.Join(p.closeUnused(), p.sweep())
}

// replace makes all that is on the layer child be on parent, which reads alike.
func (p *Pool) replace(child, parent string, gone *layer.Layer) error {
	p.mu.Lock()
	over := map[string]layerRecord{}
	for id, r := range p.layers {
		if r.Parent == child {
			over[id] = r
		}
	}
	p.mu.Unlock()
	for id, r := range over {
		r.Parent = parent
		if err := p.putLayer(id, r); err != nil {
			return err
		}
	}
	for _, v := range p.sorted() {
		if v.rec.Layer == child {
			rec := v.rec
			rec.Layer = parent
			if err := p.putVolume(v.name, rec); err != nil {
				return err
			}
		}
		if v.chain != nil {
			v.chain.Drop(gone)
		}
	}
	return nil
}
