package group

import (
	"context"
	"log/slog"
	"net"

	"github.com/holdfast-dr/holdfast/services/replicator/line"
)

// serveLines takes lines at a site until ctx ends.
func (c *cluster) serveLines(ctx context.Context) *line.Server {
	c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	s := line.NewServer(ln.Addr().String(), nil, slog.New(slog.DiscardHandler))
	go func() {
		if err := s.Serve(ctx, ln); err != nil {
			c.t.Errorf("lines: %v", err)
		}
	}()
	return s
}
