package pool

import (
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/services/replicator/layer"
)

// collapseBytes is how much may be copied while a volume's changes wait.
const collapseBytes = 16 << 20

// collapse lets each served volume write again to the layer below its top, where nothing else needs that layer: what came
// into the top while the layers below were merged is little, and is copied while changes wait. A top that holds more stays.
func (p *Pool) collapse() error {
	for _, v := range p.sorted() {
		if v.unit == nil || v.rec.Of != "" || len(p.damaged) > 0 {
			continue
		}
		parent := p.layerOf(v).Parent
		readers, named := p.readers(parent)
		if parent == "" || named || len(readers) > 1 || !p.fits(v.rec.Layer, parent) {
			continue
		}
		if err := p.collapseOne(v, parent); err != nil {
			return fmt.Errorf("collapse the layers of volume %s: %w", v.name, err)
		}
	}
	return errors.Join(p.closeUnused(), p.sweep())
}

func (p *Pool) collapseOne(v *volume, parent string) error {
	top, low := p.openOf(v.rec.Layer), p.openOf(parent)
	if top.Held() > collapseBytes {
		return nil
	}
	rec, lowRec := p.layerOf(v), p.recordOf(parent)
	if err := p.matchLength(parent, low, &lowRec, rec.SizeBytes); err != nil {
		return err
	}
	return v.unit.Freeze(func() error {
		if err := layer.Merge(top.Layer, low.Layer, func() error { return nil }); err != nil {
			return err
		}
		if err := p.putLayer(parent, lowRec); err != nil {
			return err
		}
		if err := cut(low, lowRec); err != nil {
			return err
		}
		now := v.rec
		now.Layer = parent
		if err := p.moved(v, now); err != nil {
			return err
		}
		v.chain.Drop(top.Layer)
		return nil
	})
}

// moved gives a served volume another top layer. When nobody knows which of the two a loss of power leaves it with, what would be
// written from here on might be in the other: the volume ends, and no layer is taken for unneeded before the next start.
func (p *Pool) moved(v *volume, rec volumeRecord) error {
	err := p.putVolume(v.name, rec)
	if errors.Is(err, errUnknown) {
		v.unit.Fail(err)
		p.damaged[p.volumePath(v.name)] = err
	}
	return err
}

func (p *Pool) recordOf(id string) layerRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.layers[id]
}

// matchLength gives a layer the length of the one that is to be merged into it: its files now, its record by the caller.
func (p *Pool) matchLength(id string, l *openLayer, rec *layerRecord, size int64) error {
	if size > rec.SizeBytes {
		if err := p.lengthen(id, l, *rec, size, l.Sync); err != nil {
			return err
		}
		if err := l.Grow(size); err != nil {
			return err
		}
	}
	rec.SizeBytes, rec.LimitBytes = size, min(rec.LimitBytes, size)
	return nil
}
