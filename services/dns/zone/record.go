package zone

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Type is the type of an address record: "A" or "AAAA" (RFC 1035 section 3.4.1, RFC 3596 section 2.1).
type Type string

const (
	// A is an IPv4 address.
	A Type = "A"
	// AAAA is an IPv6 address.
	AAAA Type = "AAAA"
)

const (
	// DefaultTTL is given to a record whose change names no TTL, in seconds: clients must follow a failover soon.
	DefaultTTL = 5
	// MaxTTL is the longest TTL a record may carry, in seconds (one day).
	MaxTTL = 86400
)

// Record is one address record. A record with an empty Value was deleted: it answers nothing and keeps its epoch.
type Record struct {
	Name   string         `json:"name"` // canonical: lower case, ending in a dot
	Type   Type           `json:"type"`
	Value  string         `json:"value"`       // canonical IPv4 or IPv6 address
	TTL    uint32         `json:"ttl_seconds"` // seconds
	Group  domain.GroupID `json:"group,omitempty"`
	Epoch  domain.Epoch   `json:"epoch"`  // 0: from the configuration, never changed under a grant
	Serial uint32         `json:"serial"` // the zone's serial when the record last changed, at the site that changed it
	// Previous is the value that Value took the place of: a repeat of a change answers as the first time.
	Previous string `json:"previous,omitempty"`
}

// Change is a compare-and-swap on one record.
type Change struct {
	Name  string
	Type  Type
	Old   string // the value the caller expects to stand; empty: none
	New   string // the value to stand afterwards; empty: delete
	TTL   uint32 // seconds; 0: as before, DefaultTTL for a new record
	Group domain.GroupID
	Epoch domain.Epoch // granted to the caller, never 0
	// OldIsAny accepts whatever stands under a lower epoch, and Old is not looked at.
	OldIsAny bool
}

// CanonicalName is name in lower case and ending in a dot. It wraps domain.ErrInvalid for what is not a host name:
// labels of 1 to 63 of a-z, 0-9, '-' and '_', at most 253 characters in all.
func CanonicalName(name string) (string, error) {
	n := strings.ToLower(strings.TrimSuffix(name, "."))
	if n == "" || len(n) > 253 {
		return "", fmt.Errorf("name %q: want 1 to 253 characters: %w", name, domain.ErrInvalid)
	}
	for label := range strings.SplitSeq(n, ".") {
		if !validLabel(label) {
			return "", fmt.Errorf("name %q: label %q: want 1 to 63 of a-z, 0-9, '-', '_': %w", name, label, domain.ErrInvalid)
		}
	}
	return n + ".", nil
}

func validLabel(label string) bool {
	if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// CanonicalValue is the canonical text of an address of type t, or an error that wraps domain.ErrInvalid.
func CanonicalValue(t Type, value string) (string, error) {
	addr, err := netip.ParseAddr(value)
	if err != nil || addr.Zone() != "" || addr.Is4In6() {
		return "", fmt.Errorf("%s value %q: want an IP address: %w", t, value, domain.ErrInvalid)
	}
	switch {
	case t == A && !addr.Is4():
		return "", fmt.Errorf("%s value %q: want an IPv4 address: %w", t, value, domain.ErrInvalid)
	case t == AAAA && !addr.Is6():
		return "", fmt.Errorf("%s value %q: want an IPv6 address: %w", t, value, domain.ErrInvalid)
	}
	return addr.String(), nil
}

// TypeOf is the record type an address needs; it wraps domain.ErrInvalid for what is no address.
func TypeOf(value string) (Type, error) {
	addr, err := netip.ParseAddr(value)
	switch {
	case err != nil || addr.Zone() != "" || addr.Is4In6():
		return "", fmt.Errorf("address %q: want an IPv4 or IPv6 address: %w", value, domain.ErrInvalid)
	case addr.Is4():
		return A, nil
	}
	return AAAA, nil
}

// Canonical is c with its names and addresses in canonical form, or an error that wraps domain.ErrInvalid and names the
// field that is wrong.
func (c Change) Canonical() (Change, error) {
	var err error
	if c.Name, err = CanonicalName(c.Name); err != nil {
		return Change{}, err
	}
	if c.Type != A && c.Type != AAAA {
		return Change{}, fmt.Errorf("type %q of %s: want A or AAAA: %w", c.Type, c.Name, domain.ErrInvalid)
	}
	for _, v := range []*string{&c.Old, &c.New} {
		if *v == "" {
			continue
		}
		if *v, err = CanonicalValue(c.Type, *v); err != nil {
			return Change{}, fmt.Errorf("change %s: %w", c.Name, err)
		}
	}
	switch {
	case c.Old == "" && c.New == "" && !c.OldIsAny:
		return Change{}, fmt.Errorf("change %s: neither an old nor a new value: %w", c.Name, domain.ErrInvalid)
	case c.TTL > MaxTTL:
		return Change{}, fmt.Errorf("change %s: ttl %d s: want at most %d: %w", c.Name, c.TTL, MaxTTL, domain.ErrInvalid)
	case !domain.ValidToken(string(c.Group)):
		return Change{}, fmt.Errorf("change %s: group %q: %w", c.Name, c.Group, domain.ErrInvalid)
	case c.Epoch <= 0:
		return Change{}, fmt.Errorf("change %s: epoch %s was never granted: %w", c.Name, c.Epoch, domain.ErrInvalid)
	}
	return c, nil
}

// canonical is r checked and in canonical form. A deleted record has no value, a configured one no epoch.
func (r Record) canonical() (Record, error) {
	var err error
	if r.Name, err = CanonicalName(r.Name); err != nil {
		return Record{}, err
	}
	if r.Type != A && r.Type != AAAA {
		return Record{}, fmt.Errorf("type %q of %s: want A or AAAA: %w", r.Type, r.Name, domain.ErrInvalid)
	}
	if r.Value != "" {
		if r.Value, err = CanonicalValue(r.Type, r.Value); err != nil {
			return Record{}, fmt.Errorf("record %s: %w", r.Name, err)
		}
	}
	if r.Previous != "" {
		if r.Previous, err = CanonicalValue(r.Type, r.Previous); err != nil {
			return Record{}, fmt.Errorf("record %s: previous: %w", r.Name, err)
		}
	}
	if r.TTL == 0 {
		r.TTL = DefaultTTL
	}
	switch {
	case r.TTL > MaxTTL:
		return Record{}, fmt.Errorf("record %s: ttl %d s: want at most %d: %w", r.Name, r.TTL, MaxTTL, domain.ErrInvalid)
	case r.Group != "" && !domain.ValidToken(string(r.Group)):
		return Record{}, fmt.Errorf("record %s: group %q: %w", r.Name, r.Group, domain.ErrInvalid)
	case r.Epoch < 0:
		return Record{}, fmt.Errorf("record %s: epoch %d: %w", r.Name, r.Epoch, domain.ErrInvalid)
	}
	return r, nil
}
