package health

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/health/aware"
	"github.com/holdfast-dr/holdfast/services/health/detect"
)

// Config describes one site's health service.
type Config struct {
	Site  domain.SiteID
	Role  domain.SiteRole
	Sites []Site // every site of the installation, this one's included
	Hosts []Host // VM hosts of this site
	// Replicator is host:port of the iSCSI port of this site's replicator; empty when there is none, or when the replicator's
	// heartbeats tell it.
	Replicator string
	// Probes are of what is not probed by itself.
	Probes []Probe
	// Services are the services of this site that are expected to beat, besides those that did.
	Services []string
	// Dir is where maintenance windows and evidence are kept; empty: in memory only.
	Dir string
	// ClockLimit is how far a node's wall clock may be from this one's before people are told; 0 means DefaultClockLimit.
	ClockLimit time.Duration
	// Vantages is how many observers must have lost a site before a disaster is confirmed: at least 2, which 0 means.
	Vantages int
	Timing   Timing // zero means DefaultTiming
}

// DefaultClockLimit is far above what NTP leaves between clocks and far below what breaks signatures.
const DefaultClockLimit = 2 * time.Second

// Site is one site of the installation.
type Site struct {
	ID   domain.SiteID
	Role domain.SiteRole
}

// Host is one VM host of this site.
type Host struct {
	ID    domain.HostID
	Probe string // host:port of a TCP port that is open while the host lives; empty when its agent alone speaks for it
	Rack  string // what it shares power and switches with; empty: not known
}

// Timing is how fast losses are noticed. Every site of an installation uses the same.
type Timing struct {
	Beat       time.Duration // between two heartbeats of this service, and between two probes
	NodeBeat   time.Duration // between two heartbeats of the other services and hosts
	Suspect    int           // missed in a row: suspect
	Dead       int           // missed in a row: dead
	Window     int           // answers that a link's history remembers; 0: none, every link is judged as a clean one
	Late       int           // missed in a row: dead on the worst of links
	Recover    int           // good ones in a row after death: alive; above Dead
	Grace      time.Duration // how long something expected may be silent before its first answer
	FlapWindow time.Duration // falls within it make the way back longer
	PauseLimit time.Duration // this service doubts itself when its own tick comes later than this
}

// DefaultTiming confirms the loss of a site 3 to 3.5 s after its last heartbeat, and after twice as long where links lose a fifth of what
// is sent.
func DefaultTiming() Timing {
	return Timing{Beat: 500 * time.Millisecond, NodeBeat: 500 * time.Millisecond, Suspect: 3, Dead: 6, Recover: 8, Window: 256, Late: 12,
		Grace: 30 * time.Second, FlapWindow: 10 * time.Minute, PauseLimit: time.Second}
}

// FastTiming confirms the loss of a site about 1 s after its last heartbeat. It suits sites a few milliseconds apart whose
// machines are not overloaded.
func FastTiming() Timing {
	t := DefaultTiming()
	t.Beat, t.PauseLimit, t.Grace = 150*time.Millisecond, 500*time.Millisecond, 10*time.Second
	return t
}

// Deps is what the service is given.
type Deps struct {
	Mesh    *bus.Mesh
	Tracer  trace.TracerProvider // nil: no traces
	Logger  *slog.Logger         // nil: no log
	Metrics *telemetry.Metrics   // nil: none
	// Refused tells the connections that the site's own server refused; nil: not told.
	Refused refusalSource
}

func (t Timing) params(interval time.Duration) detect.Params {
	return detect.Params{Interval: interval, Suspect: t.Suspect, Dead: t.Dead, Recover: t.Recover, Grace: t.Grace, FlapWindow: t.FlapWindow,
		Window: t.Window, Late: t.Late}
}

// aware: a loss takes Dead beats to show.
func (t Timing) aware() aware.Params {
	return aware.Params{Tick: t.Beat / tickPart, Pause: t.PauseLimit, Listen: time.Duration(t.Dead) * max(t.Beat, t.NodeBeat)}
}

// Validate names the field that cannot be.
func (t Timing) Validate() error {
	if t.PauseLimit <= 0 {
		return fmt.Errorf("health timing pause limit %v: must be above zero: %w", t.PauseLimit, domain.ErrInvalid)
	}
	for name, d := range map[string]time.Duration{"beat": t.Beat, "node beat": t.NodeBeat} {
		if err := t.params(d).Validate(); err != nil {
			return fmt.Errorf("health timing %s: %w", name, err)
		}
	}
	return nil
}

// Validate names the field that cannot be.
func (c Config) Validate() error {
	if !slices.ContainsFunc(c.Sites, func(s Site) bool { return s.ID == c.Site }) {
		return fmt.Errorf("health site %q: is not among the sites: %w", c.Site, domain.ErrInvalid)
	}
	seen := map[domain.SiteID]bool{}
	for _, s := range c.Sites {
		if !domain.ValidToken(string(s.ID)) || seen[s.ID] {
			return fmt.Errorf("health sites: %q: must be a name, once: %w", s.ID, domain.ErrInvalid)
		}
		seen[s.ID] = true
	}
	hosts := map[domain.HostID]bool{}
	for _, h := range c.Hosts {
		if !domain.ValidToken(string(h.ID)) || hosts[h.ID] {
			return fmt.Errorf("health hosts: %q: must be a name, once: %w", h.ID, domain.ErrInvalid)
		}
		hosts[h.ID] = true
		if h.Rack != "" && !domain.ValidToken(h.Rack) {
			return fmt.Errorf("health host %s rack %q: must be a name: %w", h.ID, h.Rack, domain.ErrInvalid)
		}
		if err := validAddress(h.Probe); err != nil {
			return fmt.Errorf("health host %s probe: %w", h.ID, err)
		}
	}
	for _, p := range c.Probes {
		if err := p.Validate(); err != nil {
			return err
		}
	}
	if err := validAddress(c.Replicator); err != nil {
		return fmt.Errorf("health replicator: %w", err)
	}
	for _, id := range c.Services {
		if !domain.ValidToken(id) {
			return fmt.Errorf("health services: %q: must be a name: %w", id, domain.ErrInvalid)
		}
	}
	if c.ClockLimit < 0 {
		return fmt.Errorf("health clock limit %v: must not be below zero: %w", c.ClockLimit, domain.ErrInvalid)
	}
	if c.Vantages < 0 || c.Vantages == 1 {
		return fmt.Errorf("health vantages %d: must be at least 2, or 0 for 2: %w", c.Vantages, domain.ErrInvalid)
	}
	return c.Timing.Validate()
}

func validAddress(a string) error {
	if a == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(a); err != nil {
		return fmt.Errorf("address %q: want host:port: %w", a, domain.ErrInvalid)
	}
	return nil
}
