package failover

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// Config describes the failover service of one data site.
type Config struct {
	Site domain.SiteID
	Role domain.SiteRole // must be data
	// Groups and Plans seed the desired state where it has none.
	Groups []domain.Group
	Plans  []domain.Plan
	// Hosts are the VM hosts of each site.
	Hosts map[domain.SiteID][]domain.HostID
	// DNSAuthority is host:port of the site's own name server, asked as a client would. Empty: clients go by address.
	DNSAuthority string
	// DNSTTL is the TTL of changed records in seconds. 0 means 5.
	DNSTTL uint32
	// CheckGroup refuses a group that cannot be, before a person's change of it is written; nil refuses none.
	CheckGroup func(domain.Group) error
	// ApprovalLasts is how long a person's approval of a declaration counts. 0 means an hour.
	ApprovalLasts time.Duration
	Timings       Timings
}

// Timings are the service's waits. A zero field means its default.
type Timings struct {
	Tick      time.Duration // of the reconciler and the policy: 500 ms
	Pull      time.Duration // of leases, for the guard: 500 ms
	Copy      time.Duration // of desired state between sites: 1 s
	BootWait  time.Duration // for a peer's desired state before anything is begun: 3 s
	Call      time.Duration // one ordinary request: 2 s
	Campaign  time.Duration // one candidacy: 10 s
	Demote    time.Duration // one hand-over of writes: 30 s
	Patience  time.Duration // for one step: 60 s
	Retry     time.Duration // first wait between attempts: 100 ms
	MaxRetry  time.Duration // longest: 1 s
	StopGrace time.Duration // a VM's own time to stop in a planned move: 5 s
	// Evacuated is how long a group stays down here for a run whose leader does not answer: 20 s.
	Evacuated time.Duration
	// Backoff is the longest wait between runs for a group that keep failing: 30 s.
	Backoff time.Duration
	Epsilon float64 // drift bound of two clocks: 0.01
}

// Default is the normal profile.
func (Timings) Default() Timings {
	return Timings{Tick: 500 * time.Millisecond, Pull: 500 * time.Millisecond, Copy: time.Second, BootWait: 3 * time.Second,
		Call: 2 * time.Second, Campaign: 10 * time.Second, Demote: 30 * time.Second, Patience: time.Minute,
		Retry: 100 * time.Millisecond, MaxRetry: time.Second, StopGrace: 5 * time.Second, Evacuated: 20 * time.Second,
		Backoff: 30 * time.Second, Epsilon: 0.01}
}

// Deps are what the service is given.
type Deps struct {
	Mesh    *bus.Mesh
	Tracer  trace.TracerProvider
	Logger  *slog.Logger
	Metrics *telemetry.Metrics // nil: none
	// hook is called around every effect of every run: tests kill the service there.
	hook func(ctx context.Context, moment string, r api.Run, s api.Step)
}

func (c Config) withDefaults() Config {
	d := Timings{}.Default()
	t := &c.Timings
	for _, f := range []struct {
		have *time.Duration
		want time.Duration
	}{{&t.Tick, d.Tick}, {&t.Pull, d.Pull}, {&t.Copy, d.Copy}, {&t.BootWait, d.BootWait}, {&t.Call, d.Call}, {&t.Campaign, d.Campaign},
		{&t.Demote, d.Demote}, {&t.Patience, d.Patience}, {&t.Retry, d.Retry}, {&t.MaxRetry, d.MaxRetry}, {&t.StopGrace, d.StopGrace},
		{&t.Evacuated, d.Evacuated}, {&t.Backoff, d.Backoff}} {
		if *f.have == 0 {
			*f.have = f.want
		}
	}
	if t.Epsilon == 0 {
		t.Epsilon = d.Epsilon
	}
	if c.DNSTTL == 0 {
		c.DNSTTL = 5
	}
	return c
}

// Validate names the first field that cannot be. Errors wrap domain.ErrInvalid.
func (c Config) Validate() error {
	switch {
	case !domain.ValidToken(string(c.Site)):
		return fmt.Errorf("failover config: site %q: %w", c.Site, domain.ErrInvalid)
	case c.Role != domain.SiteData:
		return fmt.Errorf("failover config: role %q of site %s: %w: only data sites run the failover service", c.Role, c.Site, domain.ErrInvalid)
	case c.Timings.Epsilon < 0 || c.Timings.Epsilon > 0.5:
		return fmt.Errorf("failover config: timings.epsilon %g: %w: want 0 to 0.5", c.Timings.Epsilon, domain.ErrInvalid)
	}
	if c.DNSAuthority != "" {
		if _, _, err := net.SplitHostPort(c.DNSAuthority); err != nil {
			return fmt.Errorf("failover config: dns_authority %q: %w: want host:port", c.DNSAuthority, domain.ErrInvalid)
		}
	}
	return nil
}
