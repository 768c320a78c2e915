package quorum

import (
	"crypto/tls"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/filevoter"
	"github.com/holdfast-dr/holdfast/services/quorum/objectvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

// Voter is one voter of the cluster.
type Voter struct {
	core.Member
	Site domain.SiteID // whose NATS server it answers at; for a passive voter, the site it lives in
	Path string        // share: where this site has it mounted; disk: its iSCSI URL
	// Local lets a share be a folder on a file system of this machine, which no other machine sees: for trying things out.
	Local  bool
	Object objectvoter.Config // object: where it is
	// Witness is where a witness service answers that is no site of this installation; Site is then where it stands.
	Witness witness.At
}

// Config describes one site's quorum service.
type Config struct {
	Cluster string // of the installation: one witness may serve several
	Site    domain.SiteID
	Role    domain.SiteRole
	Index   int // of the site, 1..255, the same for ever: it is part of the epochs
	Rank    int // 0 competes first
	Dir     string
	// MirrorDir is on tmpfs and nobody else can write it; "" keeps no mirror: after a restart the site's voter is busy for G.
	MirrorDir string
	Model     core.Model
	Voters    []Voter     // of the whole cluster, the same at every site
	Timing    core.Timing // zero means core.DefaultTiming; the same at every site
	// Plan is what the planner is told of the installation; without voters it is not asked.
	Plan planner.Input
}

// Deps is what the service is given.
type Deps struct {
	Mesh    *bus.Mesh
	Tracer  trace.TracerProvider // nil: no traces
	Logger  *slog.Logger         // nil: no log
	Metrics *telemetry.Metrics   // nil: none
	Now     func() clock.Time    // nil: clock.Now
	// Certificate is what the service shows to a witness service; nil where the installation has none.
	Certificate func() (tls.Certificate, error)
	BootID      string // "": the kernel's
	Faults      func(domain.GroupID, filevoter.Point) error
}

// serves reports whether the voter is a witness service, which votes for many installations.
func (v Voter) serves() bool { return v.Witness.URL != "" }

// own is the active voter this site hosts, false when it hosts none.
func (c Config) own() (Voter, bool) {
	for _, v := range c.Voters {
		if v.Site == c.Site && !v.Kind.Passive() && !v.serves() {
			return v, true
		}
	}
	return Voter{}, false
}

// config is the model over the voters.
func (c Config) config() (core.Config, error) {
	members := make([]core.Member, len(c.Voters))
	for i, v := range c.Voters {
		members[i] = v.Member
	}
	return core.Arrange(c.Model, members)
}

// Validate names the field that cannot be.
func (c Config) Validate() error {
	switch {
	case !domain.ValidToken(c.Cluster):
		return fmt.Errorf("quorum cluster %q: not a name: %w", c.Cluster, domain.ErrInvalid)
	case !domain.ValidToken(string(c.Site)):
		return fmt.Errorf("quorum site %q: not a name: %w", c.Site, domain.ErrInvalid)
	case c.Role != domain.SiteData && c.Role != domain.SiteWitness:
		return fmt.Errorf("quorum role %q: want data or witness: %w", c.Role, domain.ErrInvalid)
	case c.Index < 1 || c.Index > 255:
		return fmt.Errorf("quorum index %d: must be 1 to 255: %w", c.Index, domain.ErrInvalid)
	case c.Rank < 0 || c.Rank > 255:
		return fmt.Errorf("quorum rank %d: must be 0 to 255: %w", c.Rank, domain.ErrInvalid)
	case c.Dir == "":
		return fmt.Errorf("quorum dir: must be set: %w", domain.ErrInvalid)
	}
	seen, hosts := map[core.VoterID]bool{}, map[domain.SiteID]bool{}
	for _, v := range c.Voters {
		if !domain.ValidToken(string(v.ID)) || seen[v.ID] {
			return fmt.Errorf("quorum voters: %q: must be a name, once: %w", v.ID, domain.ErrInvalid)
		}
		seen[v.ID] = true
		switch v.Kind {
		case core.KindNode, core.KindWitness:
			if v.serves() {
				continue
			}
			if hosts[v.Site] {
				return fmt.Errorf("quorum voters: site %s: hosts more than one: %w", v.Site, domain.ErrInvalid)
			}
			hosts[v.Site] = true
		case core.KindShare, core.KindDisk:
			if v.Path == "" && c.Role == domain.SiteData {
				return fmt.Errorf("quorum voters: %s %s: path must be set: %w", v.Kind, v.ID, domain.ErrInvalid)
			}
		case core.KindObject:
			if (v.Object.Endpoint == "" || v.Object.Bucket == "" || v.Object.Credentials == "") && c.Role == domain.SiteData {
				return fmt.Errorf("quorum voters: %s %s: endpoint, bucket and credentials must be set: %w", v.Kind, v.ID, domain.ErrInvalid)
			}
		default:
			return fmt.Errorf("quorum voters: %s: kind %q: want node, witness, share, disk or object: %w", v.ID, v.Kind, domain.ErrInvalid)
		}
	}
	if _, err := c.config(); err != nil {
		return err
	}
	return c.Timing.Validate()
}
