package qemu

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/qemu/qga"
)

const (
	qgaPort = "qga" // the port's id at QEMU
	// recoverTime is how long a guest that is found frozen has to say that it goes on.
	recoverTime = 30 * time.Second
)

// guestAgent is the agent in the guest, if there is one.
type guestAgent struct {
	*qga.Agent
	conn net.Conn
	open atomic.Bool // the guest has its end of the port open: an agent runs

	work sync.WaitGroup
}

func newGuestAgent(conn net.Conn) *guestAgent { return &guestAgent{Agent: qga.New(conn), conn: conn} }

// changed is told when the guest opens or closes the port. A guest that is found frozen when its agent begins is let go on:
// whoever froze it is gone.
func (g *guestAgent) changed(ctx context.Context, open bool, log *slog.Logger) {
	g.open.Store(open)
	if !open {
		return
	}
	g.work.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, recoverTime)
		defer cancel()
		if thawed, err := g.Recover(ctx); err != nil {
			log.Warn("guest agent does not say whether the guest is frozen", "error", err)
		} else if thawed {
			log.Warn("guest was found frozen and let go on")
		}
	})
}

// wait returns when nothing of it runs any more, once QEMU is gone.
func (g *guestAgent) wait() {
	_ = g.conn.Close()
	g.work.Wait()
}

// Freeze implements hostagent.Freezer.
func (i *instance) Freeze(ctx context.Context) error {
	if !i.qga.open.Load() {
		return fmt.Errorf("no guest agent runs in it: %w: install qemu-guest-agent in the guest, and start it", domain.ErrUnavailable)
	}
	return i.qga.Freeze(ctx)
}

// Thaw implements hostagent.Freezer.
func (i *instance) Thaw(ctx context.Context) (stayed bool, err error) { return i.qga.Thaw(ctx) }
