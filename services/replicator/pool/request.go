package pool

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/opstats"
)

// The verbs of a Request.
const (
	VerbList     = "list"
	VerbShow     = "show"
	VerbCreate   = "create"
	VerbResize   = "resize"
	VerbSnapshot = "snapshot"
	VerbClone    = "clone"
	VerbDelete   = "delete"
	VerbSet      = "set"
	VerbStats    = "stats"
	VerbImport   = "import"
	VerbExport   = "export"
)

// Request is one thing to do in a pool. Which fields count follows from Verb.
type Request struct {
	Verb string `json:"verb"`
	Name string `json:"name,omitempty"`
	// New is the name of what snapshot and clone make.
	New       string `json:"new,omitempty"`
	SizeBytes int64  `json:"size_bytes,omitempty"`
	// Durability is "cached" or "strict" of a new volume; empty is cached.
	Durability string `json:"durability,omitempty"`
	// Device makes create take a file or block device outside of the pool, by its path from the root.
	Device string `json:"device,omitempty"`
	// File is what import reads, or export writes, by its path from the root; Format its format, empty to find out or raw.
	File   string `json:"file,omitempty"`
	Format string `json:"format,omitempty"`
	// IOPS and Bandwidth (bytes a second) are limits, 0 none, for create and set; nil leaves them as they are.
	IOPS        *int64 `json:"iops,omitempty"`
	Bandwidth   *int64 `json:"bandwidth,omitempty"`
	AllowShrink bool   `json:"allow_shrink,omitempty"`
	// Yes says that the caller knows that delete loses data.
	Yes bool `json:"yes,omitempty"`
}

// Info is what a pool tells of a volume or snapshot.
type Info struct {
	Name string `json:"name"`
	Kind string `json:"kind"` // "volume" or "snapshot"
	// Of is the volume that a snapshot is of, Origin what a clone was made of.
	Of         string            `json:"of,omitempty"`
	Origin     string            `json:"origin,omitempty"`
	SizeBytes  int64             `json:"size_bytes"`
	Durability domain.Durability `json:"durability"`
	Created    time.Time         `json:"created"`
	IOPS       int64             `json:"iops"`      // 0: no limit
	Bandwidth  int64             `json:"bandwidth"` // bytes a second, 0: no limit
	// AllocatedBytes is the space that only this volume's own layer takes, SharedBytes that of the layers below it.
	AllocatedBytes int64  `json:"allocated_bytes"`
	SharedBytes    int64  `json:"shared_bytes"`
	Layers         int    `json:"layers"`
	Device         string `json:"device,omitempty"`
	IQN            string `json:"iqn"`
	// URL is where initiators find it, Sessions how many are logged in; empty and 0 while nothing serves the pool.
	URL      string `json:"url,omitempty"`
	Sessions int    `json:"sessions"`
	// Error is why it is not served.
	Error string `json:"error,omitempty"`
}

// Reply answers a Request: list with every volume, the others with the one that they made or changed.
type Reply struct {
	Volumes []Info `json:"volumes"`
	// Stats is the answer to stats.
	Stats *opstats.Stats `json:"stats,omitempty"`
}

// Do carries out a request. Errors wrap the sentinels of package domain: what the guards refuse is ErrRefused.
func (p *Pool) Do(ctx context.Context, r Request) (Reply, error) {
	if r.Verb == VerbList {
		return Reply{Volumes: p.list()}, nil
	}
	if r.Verb == VerbShow {
		return p.show(r.Name)
	}
	if r.Verb == VerbStats {
		stats, err := p.statsOf(r.Name)
		return Reply{Stats: stats}, err
	}
	p.admin.Lock()
	defer p.admin.Unlock()
	made := r.Name
	var err error
	switch r.Verb {
	case VerbCreate:
		err = p.create(r)
	case VerbResize:
		err = p.resize(r)
	case VerbSnapshot:
		made, err = r.New, p.snapshot(r)
	case VerbClone:
		made, err = r.New, p.clone(r)
	case VerbImport:
		err = p.importFile(ctx, r)
	case VerbExport:
		err = p.exportFile(ctx, r)
	case VerbSet:
		err = p.set(r)
	case VerbDelete:
		return Reply{}, p.remove(r, ctx.Err)
	default:
		err = fmt.Errorf("pool request %q: %w", r.Verb, domain.ErrInvalid)
	}
	if err != nil {
		return Reply{}, err
	}
	return p.show(made)
}

// TargetName is the iSCSI name of a volume.
func (p *Pool) TargetName(name string) string {
	return "iqn.2026-11.dev.holdfast:" + p.id + ":" + name
}

func (p *Pool) show(name string) (Reply, error) {
	v, err := p.find(name)
	if err != nil {
		return Reply{}, err
	}
	return Reply{Volumes: []Info{p.info(v)}}, nil
}

func (p *Pool) list() []Info {
	out := []Info{}
	for _, v := range p.sorted() {
		out = append(out, p.info(v))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(p.damaged)) {
		if file, ok := strings.CutPrefix(path, p.path("volumes")+"/"); ok && strings.HasSuffix(file, ".json") {
			out = append(out, Info{Name: strings.TrimSuffix(file, ".json"), Kind: "damaged", Error: p.damaged[path].Error()})
		}
	}
	return out
}

func (p *Pool) info(v *volume) Info {
	p.mu.Lock()
	rec, failed := v.rec, v.err
	u := v.unit
	p.mu.Unlock()
	i := Info{Name: v.name, Kind: "volume", Of: rec.Of, Origin: rec.Origin, Durability: rec.Durability, Created: rec.Created,
		IOPS: rec.IOPS, Bandwidth: rec.Bandwidth, IQN: p.TargetName(v.name)}
	if rec.Of != "" {
		i.Kind = "snapshot"
	}
	ids, err := p.lineage(rec.Layer)
	if failed == nil {
		failed = err
	}
	if failed == nil && u != nil {
		failed = u.Err()
	}
	if failed != nil {
		i.Error = failed.Error()
	}
	i.Layers = len(ids)
	for n, id := range ids {
		p.mu.Lock()
		l := p.layers[id]
		p.mu.Unlock()
		if n == 0 {
			i.SizeBytes, i.Device, i.AllocatedBytes = l.SizeBytes, l.Device, p.allocated(id, l)
			continue
		}
		i.SharedBytes += p.allocated(id, l)
	}
	if p.front != nil && u != nil {
		i.URL, i.Sessions = p.front.URL(v.name), p.front.Sessions(v.name)
	}
	return i
}
