package pool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/layer"
)

// create makes a volume of zeroes, or one on a device outside of the pool.
func (p *Pool) create(r Request) error {
	if err := p.free(r.Name); err != nil {
		return err
	}
	rec := layerRecord{SizeBytes: r.SizeBytes}
	if r.Device != "" {
		size, err := deviceSize(r.Device)
		if err != nil {
			return fmt.Errorf("create volume %s on %s: %w", r.Name, r.Device, err)
		}
		if rec.Device = r.Device; rec.SizeBytes == 0 {
			rec.SizeBytes = size
		}
		if rec.SizeBytes > size {
			return fmt.Errorf("create volume %s: %s has %d bytes only: %w", r.Name, r.Device, size, domain.ErrInvalid)
		}
	}
	if err := checkSize(rec.SizeBytes); err != nil {
		return fmt.Errorf("create volume %s: %w", r.Name, err)
	}
	durability := domain.Durability(r.Durability)
	if durability == "" {
		durability = domain.DurabilityCached
	}
	if durability != domain.DurabilityCached && durability != domain.DurabilityStrict {
		return fmt.Errorf("create volume %s: durability %q is neither strict nor cached: %w", r.Name, durability, domain.ErrInvalid)
	}
	v := volumeRecord{ID: newID(16), Created: time.Now().UTC(), Durability: durability}
	err := v.limits(r)
	if err == nil {
		v.Layer, err = p.newLayer(rec)
	}
	if err != nil {
		return fmt.Errorf("create volume %s: %w", r.Name, err)
	}
	return p.begin(r.Name, v)
}

// deviceSize is the length of what another program might hold.
func deviceSize(path string) (int64, error) {
	if !filepath.IsAbs(path) {
		return 0, fmt.Errorf("name it from the root, as in /dev/vg0/disk: %w", domain.ErrInvalid)
	}
	f, err := blockfile.Open(path, 0, blockfile.Cached)
	if err != nil {
		return 0, err
	}
	size, err := f.Size()
	return size / layer.BlockSize * layer.BlockSize, errors.Join(err, f.Close())
}

func checkSize(size int64) error {
	if size <= 0 || size%layer.BlockSize != 0 {
		return fmt.Errorf("size %d is not a positive multiple of %d bytes: %w", size, layer.BlockSize, domain.ErrInvalid)
	}
	return nil
}

// begin makes the volume's record durable, and serves it when the pool is served.
func (p *Pool) begin(name string, rec volumeRecord) error {
	if err := p.putVolume(name, rec); err != nil {
		return err
	}
	if p.front == nil {
		return nil
	}
	v, err := p.find(name)
	if err != nil {
		return err
	}
	return p.serve(v)
}

// serve opens a volume and gives it to the front.
func (p *Pool) serve(v *volume) error {
	if err := p.openVolume(v); err != nil {
		return err
	}
	if err := p.front.Add(v.name, v.unit); err != nil {
		return errors.Join(err, p.closeVolume(v))
	}
	return nil
}

// ServeAll gives every volume to the front. One that cannot be opened is logged and listed with its error; the others go
// on.
func (p *Pool) ServeAll() {
	p.admin.Lock()
	defer p.admin.Unlock()
	for _, v := range p.sorted() {
		if err := p.serve(v); err != nil {
			p.log.Error("volume is not served", "volume", v.name, "error", err)
			p.mu.Lock()
			v.err = err
			p.mu.Unlock()
		}
	}
}

// opened runs f with the volume open, and closes it again when nobody serves it.
func (p *Pool) opened(v *volume, f func() error) error {
	if err := p.openVolume(v); err != nil {
		return err
	}
	err := f()
	if p.front == nil {
		err = errors.Join(err, p.closeVolume(v))
	}
	return err
}

// resize makes a volume larger at any time, smaller only while nobody serves it and the caller said so.
func (p *Pool) resize(r Request) error {
	v, err := p.find(r.Name)
	if err != nil {
		return err
	}
	if err := checkSize(r.SizeBytes); err != nil {
		return fmt.Errorf("resize volume %s: %w", r.Name, err)
	}
	rec := p.layerOf(v)
	switch {
	case v.rec.Of != "":
		return fmt.Errorf("resize volume %s: it is a snapshot of %s, which does not change; clone it and resize the clone: %w", r.Name, v.rec.Of, domain.ErrRefused)
	case rec.Device != "":
		return fmt.Errorf("resize volume %s: it is %s; resize that, and create the volume anew: %w", r.Name, rec.Device, domain.ErrInvalid)
	case r.SizeBytes == rec.SizeBytes:
		return nil
	case r.SizeBytes > rec.SizeBytes:
		return p.opened(v, func() error { return p.grow(v, r.SizeBytes) })
	case !r.AllowShrink:
		return fmt.Errorf("resize volume %s: what lies beyond %d bytes would be lost; add --allow-shrink: %w", r.Name, r.SizeBytes, domain.ErrRefused)
	case p.front != nil:
		return fmt.Errorf("resize volume %s: it is served, and made smaller only while it is not; stop the server first: %w", r.Name, domain.ErrRefused)
	}
	return p.shrink(v, r.SizeBytes)
}

func (p *Pool) layerOf(v *volume) layerRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.layers[v.rec.Layer]
}

// grow makes the files longer, then the record; what is longer than its record is cut off at the next opening.
func (p *Pool) grow(v *volume, size int64) error {
	id, rec := v.rec.Layer, p.layerOf(v)
	l := p.openOf(id)
	if err := p.lengthen(id, l, rec, size, v.unit.Flush); err != nil {
		return fmt.Errorf("resize volume %s: %w", v.name, err)
	}
	return v.unit.Grow(size, func() error {
		if err := l.Grow(size); err != nil {
			return err
		}
		rec.SizeBytes = size
		return p.putLayer(id, rec)
	})
}

func (p *Pool) openOf(id string) *openLayer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[id]
}

// lengthen makes the files of a layer long enough for size, durably by flush: that of the volume that writes to the layer, or
// the layer's own where none does. A flush that fails may have lost what initiators wrote, which nothing but it will tell.
func (p *Pool) lengthen(id string, l *openLayer, rec layerRecord, size int64, flush func() error) error {
	if err := l.data.Truncate(size); err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	p.step("layer data longer")
	if l.blocks == nil {
		return nil
	}
	return zeroFile(p.layerPath(id, "map"), layer.MapSize(rec.SizeBytes), layer.MapSize(size))
}

// shrink changes the record, then the files. What showed through of the parent beyond the new end never does again.
func (p *Pool) shrink(v *volume, size int64) error {
	rec := p.layerOf(v)
	rec.SizeBytes, rec.LimitBytes = size, min(rec.LimitBytes, size)
	if err := p.putLayer(v.rec.Layer, rec); err != nil {
		return err
	}
	return p.opened(v, func() error { return nil }) // which cuts the files off
}

// remove deletes a volume or snapshot.
func (p *Pool) remove(r Request, more func() error) error {
	v, err := p.find(r.Name)
	if err != nil {
		return err
	}
	if on := p.dependants(r.Name); len(on) > 0 {
		return fmt.Errorf("delete volume %s: %s depend on it; delete them first: %w", r.Name, strings.Join(on, ", "), domain.ErrRefused)
	}
	if !r.Yes {
		return fmt.Errorf("delete volume %s: its data would be lost; add --yes: %w", r.Name, domain.ErrRefused)
	}
	if p.front != nil {
		if err := p.front.Remove(r.Name); err != nil && !errors.Is(err, domain.ErrNotFound) {
			return fmt.Errorf("delete volume %s: %w", r.Name, err)
		}
	}
	if err := p.closeVolume(v); err != nil {
		p.log.Warn("closing the deleted volume failed", "volume", r.Name, "error", err)
	}
	if err := removeFile(p.volumePath(r.Name)); err != nil {
		return fmt.Errorf("delete volume %s: %w", r.Name, err)
	}
	p.mu.Lock()
	delete(p.volumes, r.Name)
	p.mu.Unlock()
	p.step("volume record gone")
	if err := p.sweep(); err != nil {
		return err
	}
	if v.rec.Of != "" {
		if err := errors.Join(p.freezeTops(), p.compact(more)); err != nil {
			return fmt.Errorf("%s is deleted; merge the layers below it: %w", r.Name, err)
		}
		return nil
	}
	return p.compact(more)
}

// dependants are the snapshots and clones made of a volume.
func (p *Pool) dependants(name string) []string {
	var out []string
	for _, v := range p.sorted() {
		if v.rec.Of == name || v.rec.Origin == name {
			out = append(out, v.name)
		}
	}
	return out
}

// sweep removes layers that no volume reaches, and files that are no layer's. With a damaged record it cannot know.
func (p *Pool) sweep() error {
	if len(p.damaged) > 0 {
		return nil
	}
	if err := p.dropKept(); err != nil {
		return err
	}
	used := map[string]bool{}
	for _, v := range p.sorted() {
		ids, err := p.lineage(v.rec.Layer)
		if err != nil {
			p.mu.Lock()
			p.damaged[p.volumePath(v.name)+" (layers)"] = err
			p.mu.Unlock()
			return nil //nolint:nilerr // the volume says so when it is opened; nothing is removed
		}
		for _, id := range ids {
			used[id] = true
		}
	}
	entries, err := os.ReadDir(p.path("layers"))
	if err != nil {
		return err
	}
	// Records first: a record whose files are gone would be a damaged layer.
	for _, records := range []bool{true, false} {
		for _, e := range entries {
			id, _, _ := strings.Cut(e.Name(), ".")
			if used[id] || records != strings.HasSuffix(e.Name(), ".json") {
				continue
			}
			if err := os.Remove(p.path("layers", e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			p.mu.Lock()
			delete(p.layers, id)
			p.mu.Unlock()
		}
		if err := durable.SyncDir(p.path("layers")); err != nil {
			return err
		}
		p.step("swept")
	}
	return nil
}
