package quorum

import (
	"context"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
)

const beat = 500 * time.Millisecond

// heartbeat says on every site's server that this service lives.
func (s *service) heartbeat(ctx context.Context) {
	s.mesh.Beat(ctx, api.Heartbeat{Site: s.cfg.Site, Node: api.ServiceQuorum, Kind: api.ServiceQuorum, Boot: s.boot}, beat)
}
