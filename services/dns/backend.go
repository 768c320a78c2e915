package dns

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/rfc2136"
	"github.com/holdfast-dr/holdfast/services/dns/store"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

// backend is where a zone's records are changed. Both methods may be repeated; errors wrap domain's sentinels.
type backend interface {
	// Change does ch and returns when the authority answers it.
	Change(ctx context.Context, ch zone.Change) (zone.Outcome, error)
	// Lookup is the record that stands, or domain.ErrNotFound.
	Lookup(ctx context.Context, name string, t zone.Type) (zone.Record, error)
	// Zone is what it is responsible for, canonical.
	Zone() string
	// Addr is the authority's host:port.
	Addr() string
}

var _ backend = (*rfc2136.Client)(nil)

// route finds the backend with the longest zone that name is below.
func route(backends []backend, name string) (backend, error) {
	n, err := zone.CanonicalName(name)
	if err != nil {
		return nil, err
	}
	var best backend
	for _, b := range backends {
		if below(n, b.Zone()) && (best == nil || len(b.Zone()) > len(best.Zone())) {
			best = b
		}
	}
	if best == nil {
		return nil, fmt.Errorf("name %s is below no zone of this site's dns service: %w: delegate its zone to Holdfast or give its server under dns.servers", n, domain.ErrRefused)
	}
	return best, nil
}

func below(name, origin string) bool {
	return len(name) > len(origin) && name[len(name)-len(origin)-1:] == "."+origin
}

// copyOfZone is this site's copy of the delegated zone: durable in its file before anyone sees it.
type copyOfZone struct {
	file    *store.File
	current atomic.Pointer[zone.Zone]
	mu      sync.Mutex // held by whoever makes a new zone
}

// openZone loads the zone and puts the configured records in.
func openZone(cfg Config, log *slog.Logger) (*copyOfZone, error) {
	file, err := store.Open(cfg.StateFile)
	if err != nil {
		return nil, err
	}
	z, found, err := file.Load(cfg.Zone)
	if err != nil {
		return nil, err
	}
	seeded, err := z.Seed(cfg.seeds())
	if err != nil {
		return nil, fmt.Errorf("dns.records: %w", err)
	}
	if !found || seeded.Serial() != z.Serial() {
		if err := file.Save(seeded); err != nil {
			return nil, err
		}
	}
	log.Info("zone loaded", "zone", seeded.Origin(), "serial", seeded.Serial(), "records", len(seeded.Records()), "new", !found)
	c := &copyOfZone{file: file}
	c.current.Store(&seeded)
	return c, nil
}

// zone is what is answered now.
func (c *copyOfZone) zone() zone.Zone { return *c.current.Load() }

// apply does ch durably.
func (c *copyOfZone) apply(ch zone.Change) (zone.Outcome, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, out, err := c.zone().Apply(ch)
	if err != nil || !out.Changed {
		return out, err
	}
	return out, c.put(next)
}

// merge takes over what is newer in a peer's records, durably. A conflict is reported beside what was merged.
func (c *copyOfZone) merge(records []zone.Record) (changed []zone.Record, conflict, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.zone()
	next, changed, conflict := before.Merge(records)
	if next.Serial() == before.Serial() {
		return nil, conflict, nil
	}
	return changed, conflict, c.put(next)
}

func (c *copyOfZone) put(next zone.Zone) error {
	if err := c.file.Save(next); err != nil {
		return err
	}
	c.current.Store(&next)
	return nil
}

func toAPI(r zone.Record) api.DNSRecord {
	return api.DNSRecord{Name: r.Name, Type: string(r.Type), Value: r.Value, TTL: r.TTL, Group: r.Group, Epoch: r.Epoch, Serial: r.Serial, Previous: r.Previous}
}

func fromAPI(r api.DNSRecord) zone.Record {
	return zone.Record{Name: r.Name, Type: zone.Type(r.Type), Value: r.Value, TTL: r.TTL, Group: r.Group, Epoch: r.Epoch, Serial: r.Serial, Previous: r.Previous}
}

func allToAPI(records []zone.Record) api.DNSRecords {
	out := api.DNSRecords{Records: make([]api.DNSRecord, len(records))}
	for i, r := range records {
		out.Records[i] = toAPI(r)
	}
	return out
}

func allFromAPI(records api.DNSRecords) []zone.Record {
	out := make([]zone.Record, len(records.Records))
	for i, r := range records.Records {
		out[i] = fromAPI(r)
	}
	return out
}
