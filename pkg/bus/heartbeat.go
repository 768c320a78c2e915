package bus

import (
	"context"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
)

// Beat says on every site's server that a node lives, at once and then at every interval, until ctx ends. It fills in the
// sequence, the protocol version and the wall time. Each site is told by itself: one whose connection hangs holds up no other.
func (m *Mesh) Beat(ctx context.Context, hb api.Heartbeat, every time.Duration) {
	var wg sync.WaitGroup
	for _, c := range m.conns {
		wg.Go(func() { c.beat(ctx, hb, every) })
	}
	wg.Wait()
}

func (c *Conn) beat(ctx context.Context, hb api.Heartbeat, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	subject := api.HeartbeatSubject(hb.Site, hb.Node)
	hb.Version = c.version.String()
	for {
		hb.Seq++
		hb.Wall = time.Now().UTC()
		if err := c.PublishJSON(ctx, subject, hb); err != nil {
			c.log.Debug("heartbeat not sent", "peer", string(c.site), "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
