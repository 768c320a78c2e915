// Package dns is the dns service of a site: it carries out changes of names, verifies them at their authority, and decides
// nothing. A name below the delegated zone is served by the site's own authority (package authority); one below another
// configured zone is changed at its server (package rfc2136). Every change is a compare-and-swap under an epoch.
//
// # The delegated zone at several sites
//
// Every data site serves its own copy, so that any survivor answers. A change is made durable and answered at the site it
// was asked of, then pushed to the others in the background until they have it; a service that starts pulls from its peers
// before it answers its first question. Copies are joined by epoch (package zone), so the order of arrival is of no matter.
//
// # A site that is cut off
//
// It hears of no change, so its copy may still say that a name points at itself. Therefore a name that points at this site
// is answered only while this site holds the lease of the name's group, counted on CLOCK_BOOTTIME from the moment its own
// quorum service was asked; otherwise the answer is SERVFAIL and a resolver turns to another site's server.
//
// # Failure cases
//
// Killed at any point: the zone file holds the old or the new zone; the change may be sent again. A full disk: the change
// fails, the old record is answered. No peer reachable at start: after PullWait the own copy is answered, except for names
// that point here without a lease. The read-back fails: the change is reported unavailable, and a repeat settles it.
package dns

import (
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/dns/authority"
	"github.com/holdfast-dr/holdfast/services/dns/rfc2136"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

// Config describes the service of one site.
type Config struct {
	Site domain.SiteID
	// SiteIndex is this site's number in epochs; OwnAddresses are those its VMs have here. A record whose epoch or address
	// says that it points here is answered only under a lease. With neither, every record is always answered.
	SiteIndex    int
	OwnAddresses []string

	Zone      string           // delegated to Holdfast; empty: this site has no authority of its own
	Listen    string           // host:port, UDP and TCP
	StateFile string           // the zone's file
	Authority authority.Config // the zone's apex
	Records   []api.DNSRecord  // what the zone holds before any change; Epoch and Serial are not read
	Servers   []rfc2136.Config // other zones, at their servers
	Peers     []domain.SiteID  // other sites with a dns service

	PullWait   time.Duration // at start: how long peers are waited for
	VerifyWait time.Duration // how long a change may take to be seen at the own authority; below the 2 s that callers wait
	LeasePoll  time.Duration // how often the own quorum is asked
	ClockDrift float64       // greatest difference of two clocks' rates, as a fraction
}

// Default is a Config with the waits and rates filled in.
func Default() Config {
	return Config{Listen: "127.0.0.1:5353", PullWait: 2 * time.Second, VerifyWait: 1500 * time.Millisecond, LeasePoll: 500 * time.Millisecond, ClockDrift: 0.01}
}

// Deps are what the service is given.
type Deps struct {
	Mesh    *bus.Mesh
	Tracer  trace.TracerProvider
	Log     *slog.Logger
	Metrics *telemetry.Metrics // nil: none
	// Ready is called once questions are answered, with the authority's host:port (empty without a zone). It may be nil.
	Ready func(addr string)
}

// Validate names the first field that is wrong; the error wraps domain.ErrInvalid.
func (c Config) Validate() error {
	invalid := func(field, format string, a ...any) error {
		return fmt.Errorf("dns.%s: %s: %w", field, fmt.Sprintf(format, a...), domain.ErrInvalid)
	}
	switch {
	case !domain.ValidToken(string(c.Site)):
		return invalid("site", "%q is no site id", c.Site)
	case c.Zone == "" && len(c.Servers) == 0:
		return invalid("zone", "neither a zone of its own nor a server is given")
	case c.Zone != "" && c.StateFile == "":
		return invalid("state_file", "the zone needs a file")
	case c.Zone != "" && len(c.Authority.NameServers) == 0:
		return invalid("name_servers", "the zone needs at least one")
	case c.Zone == "" && len(c.Records) > 0:
		return invalid("records", "records are given without a zone")
	case c.PullWait <= 0 || c.VerifyWait <= 0 || c.LeasePoll <= 0:
		return invalid("pull_wait", "the waits must be above 0")
	case c.ClockDrift < 0 || c.ClockDrift >= 0.5:
		return invalid("clock_drift", "%v: want 0 to 0.5", c.ClockDrift)
	}
	for i, a := range c.OwnAddresses {
		if _, err := zone.TypeOf(a); err != nil {
			return fmt.Errorf("dns.own_addresses[%d]: %w", i, err)
		}
	}
	for i, p := range c.Peers {
		if p == c.Site {
			return invalid(fmt.Sprintf("peers[%d]", i), "it is this site")
		}
	}
	return nil
}

// seeds are the configured records.
func (c Config) seeds() []zone.Record {
	out := make([]zone.Record, len(c.Records))
	for i, r := range c.Records {
		out[i] = zone.Record{Name: r.Name, Type: zone.Type(r.Type), Value: r.Value, TTL: r.TTL, Group: r.Group}
	}
	return out
}
