package site

import (
	"context"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/services/health"
)

// Probed is how one of a site's own probes went.
type Probed struct {
	Of     string        `json:"of"`   // host/a-h1
	Kind   string        `json:"kind"` // tcp, http, iscsi, nats, libvirt, guest-agent
	Target string        `json:"target"`
	TookNs time.Duration `json:"took_ns"`
	Error  string        `json:"error,omitempty"` // why it is not well
}

// ProbeOnce carries out each probe of a site's configuration once, from here, one after the other.
func ProbeOnce(ctx context.Context, cfg config.Config) []Probed {
	out := []Probed{}
	for _, p := range probes(cfg) {
		r := Probed{Of: p.Kind + "/" + p.ID, Kind: p.How, Target: p.Target}
		begun := time.Now()
		if err := p.Once(ctx, healthTiming(cfg)); err != nil {
			r.Error = err.Error()
		}
		r.TookNs = time.Since(begun)
		out = append(out, r)
	}
	return out
}

func healthTiming(cfg config.Config) health.Timing {
	if cfg.Timing == "fast" {
		return health.FastTiming()
	}
	return health.DefaultTiming()
}

func probes(cfg config.Config) (out []health.Probe) {
	for _, p := range cfg.Health.Probes {
		kind, id, _ := strings.Cut(p.Of, "/")
		out = append(out, health.Probe{Kind: kind, ID: id, How: p.Kind, Target: p.Target, Every: time.Duration(p.Every),
			Timeout: time.Duration(p.Timeout), CHAP: chap.Settings(p.CHAP)})
	}
	return out
}
