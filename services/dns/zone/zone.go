package zone

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

type key struct {
	name string
	typ  Type
}

// Zone is the state of one delegated zone. It is immutable: every change makes another. The zero value holds no name.
type Zone struct {
	origin  string
	serial  uint32
	records map[key]Record
	nodes   map[string]bool // every name that has a record, and every name above it within the zone
}

// New is the empty zone of origin, at serial 1.
func New(origin string) (Zone, error) {
	o, err := CanonicalName(origin)
	if err != nil {
		return Zone{}, fmt.Errorf("zone origin: %w", err)
	}
	return Zone{origin: o, serial: 1}, nil
}

// Load is the zone whose records and serial were kept elsewhere, as Records and Serial gave them.
func Load(origin string, serial uint32, records []Record) (Zone, error) {
	z, err := New(origin)
	if err != nil {
		return Zone{}, err
	}
	m := make(map[key]Record, len(records))
	for _, r := range records {
		c, err := z.admit(r)
		if err != nil {
			return Zone{}, fmt.Errorf("load zone %s: %w", z.origin, err)
		}
		m[key{c.Name, c.Type}] = c
		serial = max(serial, c.Serial)
	}
	return z.with(m, max(serial, 1)), nil
}

// Origin is the zone's name, canonical.
func (z Zone) Origin() string { return z.origin }

// Serial is the SOA serial. It grows by one with each change and never falls; 2^32 changes of one zone do not happen.
func (z Zone) Serial() uint32 { return z.serial }

// Contains reports whether name (canonical) is the origin or below it.
func (z Zone) Contains(name string) bool {
	return z.origin != "" && (name == z.origin || strings.HasSuffix(name, "."+z.origin))
}

// Lookup is the record that stands for name (canonical); ok is false when there is none or it was deleted.
func (z Zone) Lookup(name string, t Type) (r Record, ok bool) {
	r, ok = z.records[key{name, t}]
	return r, ok && r.Value != ""
}

// Exists reports whether name (canonical) is a node of the zone: it has a record, or a name below it has
// (an empty non-terminal, RFC 8020 section 3).
func (z Zone) Exists(name string) bool { return name == z.origin && name != "" || z.nodes[name] }

// Records lists every record, the deleted ones too, by name and type.
func (z Zone) Records() []Record {
	out := slices.Collect(maps.Values(z.records))
	slices.SortFunc(out, func(a, b Record) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(string(a.Type), string(b.Type))
	})
	return out
}

// Seed puts configured records in, at epoch 0 and the zone's serial. A record that has been changed under an epoch
// stands; so does one that is as configured already.
func (z Zone) Seed(records []Record) (Zone, error) {
	m := maps.Clone(z.records)
	if m == nil {
		m = make(map[key]Record, len(records))
	}
	serial, grown := z.serial+1, false
	for _, r := range records {
		r.Epoch, r.Serial = 0, serial
		c, err := z.admit(r)
		if err != nil {
			return Zone{}, fmt.Errorf("seed zone %s: %w", z.origin, err)
		}
		k := key{c.Name, c.Type}
		if old, ok := m[k]; ok && (old.Epoch > 0 || sameAnswer(old, c) && old.Group == c.Group) {
			continue
		}
		m[k], grown = c, true
	}
	if !grown {
		return z, nil
	}
	return z.with(m, serial), nil
}

// Outcome says what a change did.
type Outcome struct {
	Record  Record // what stands now
	Before  string // the value that stood before the change, when it was done first; empty for none
	Changed bool   // false: the same change was done earlier
}

// Apply does c, or refuses it with an error that wraps domain.ErrInvalid, ErrRefused (the name is another group's or not
// of this zone), ErrStaleEpoch or ErrConflict (neither Old nor New stands). The same change may be applied again: it
// succeeds and changes nothing. Where New stands already under a lower epoch, the record only takes on the epoch.
func (z Zone) Apply(c Change) (Zone, Outcome, error) {
	c, err := c.Canonical()
	if err != nil {
		return z, Outcome{}, err
	}
	if !z.Contains(c.Name) || c.Name == z.origin {
		return z, Outcome{}, fmt.Errorf("change %s: not a name below zone %s: %w", c.Name, z.origin, domain.ErrRefused)
	}
	if err := z.mayChange(c); err != nil {
		return z, Outcome{}, err
	}
	stands := z.records[key{c.Name, c.Type}]
	next := c.record(stands)
	if c.repeats(stands) {
		return z, Outcome{Record: stands, Before: c.before(stands)}, nil
	}
	if !c.expects(stands) {
		return z, Outcome{}, fmt.Errorf("change %s %s to %s: expected %s, found %s (group %s, epoch %s): %w", c.Type, c.Name,
			Show(c.New), Show(c.Old), Show(stands.Value), stands.Group, stands.Epoch, domain.ErrConflict)
	}
	next.Serial = z.serial + 1
	m := maps.Clone(z.records)
	if m == nil {
		m = map[key]Record{}
	}
	m[key{c.Name, c.Type}] = next
	return z.with(m, next.Serial), Outcome{Record: next, Before: c.before(stands), Changed: true}, nil
}

// mayChange holds c against every record of its name, whatever their type: they are one group's, and their epochs only grow.
func (z Zone) mayChange(c Change) error {
	for _, t := range []Type{A, AAAA} {
		r, ok := z.records[key{c.Name, t}]
		if !ok {
			continue
		}
		if r.Group != "" && r.Group != c.Group {
			return fmt.Errorf("change %s for group %s: the name belongs to group %s, give the VM a name of its own: %w",
				c.Name, c.Group, r.Group, domain.ErrRefused)
		}
		if c.Epoch < r.Epoch {
			return fmt.Errorf("change %s %s to %s: epoch %s is below %s, under which %s %s stands: %w", c.Type, c.Name, Show(c.New),
				c.Epoch, r.Epoch, t, Show(r.Value), domain.ErrStaleEpoch)
		}
	}
	return nil
}

// repeats reports whether c was done before: its new value stands under its own epoch. A change from a value to itself is
// a change of TTL, done when the TTL stands too.
func (c Change) repeats(stands Record) bool {
	if stands.Epoch != c.Epoch || stands.Value != c.New {
		return false
	}
	return c.OldIsAny || c.Old != c.New || c.TTL == 0 || c.TTL == stands.TTL
}

// expects reports whether c may take the place of what stands.
func (c Change) expects(stands Record) bool {
	switch {
	case stands.Value == c.New:
		return true
	case c.OldIsAny:
		return stands.Epoch < c.Epoch
	}
	return stands.Value == c.Old
}

// before is the value that New takes, or took, the place of.
func (c Change) before(stands Record) string {
	if stands.Value == c.New && (c.OldIsAny || c.Old != c.New) {
		return stands.Previous
	}
	return stands.Value
}

func (c Change) record(stands Record) Record {
	ttl := c.TTL
	if ttl == 0 {
		ttl = stands.TTL
	}
	if ttl == 0 {
		ttl = DefaultTTL
	}
	r := Record{Name: c.Name, Type: c.Type, Value: c.New, TTL: ttl, Group: c.Group, Epoch: c.Epoch, Previous: stands.Previous}
	if stands.Value != c.New {
		r.Previous = stands.Value
	}
	return r
}

// admit is r in canonical form if it may be in this zone.
func (z Zone) admit(r Record) (Record, error) {
	c, err := r.canonical()
	if err != nil {
		return Record{}, err
	}
	if !z.Contains(c.Name) || c.Name == z.origin {
		return Record{}, fmt.Errorf("record %s: not a name below zone %s: %w", c.Name, z.origin, domain.ErrInvalid)
	}
	return c, nil
}

func (z Zone) with(records map[key]Record, serial uint32) Zone {
	nodes := make(map[string]bool, len(records))
	for _, r := range records {
		if r.Value == "" {
			continue
		}
		for n := r.Name; n != z.origin && !nodes[n]; n = n[strings.IndexByte(n, '.')+1:] {
			nodes[n] = true
		}
	}
	return Zone{origin: z.origin, serial: serial, records: records, nodes: nodes}
}

func sameAnswer(a, b Record) bool { return a.Value == b.Value && a.TTL == b.TTL }

// Show is a value as an error message shows it: "nothing" for none.
func Show(value string) string {
	if value == "" {
		return "nothing"
	}
	return value
}
