package replicator

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/services/replicator/line"
)

// fault is what is wrong now, or nil.
type fault struct {
	mu  sync.Mutex
	err error
}

func (f *fault) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// set reports whether it is another than before.
func (f *fault) set(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.err
	f.err = err
	return fmt.Sprint(before) != fmt.Sprint(err)
}

// startLines takes lines until ctx ends. Without a port for them the replicator does its work all the same: it offers none, so that
// primaries send through NATS, and tries again.
func (s *service) startLines(ctx context.Context) {
	s.lines = line.NewServer("", s.deps.Credentials, s.log)
	if s.deps.Note != nil {
		s.deps.Note("lines", s.noLines.get)
	}
	ln := s.listenForLines(ctx) // before a group is open, so that its first primary is offered one
	s.wg.Go(func() {
		for wait := s.retryFirst(); ; wait = min(2*wait, retryMost) {
			if ln != nil {
				err := s.lines.Serve(ctx, ln)
				s.lines.At("")
				s.tellLines(ctx, err)
				wait = s.retryFirst()
			}
			if clock.Sleep(ctx, wait) != nil {
				return
			}
			ln = s.listenForLines(ctx)
		}
	})
}

// listenForLines is the listener for lines, which are offered from then on; nil when there is none to be had.
func (s *service) listenForLines(ctx context.Context) net.Listener {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.LineListen)
	s.tellLines(ctx, err)
	if err != nil {
		return nil
	}
	s.lines.At(cmp.Or(s.cfg.LineAddress, ln.Addr().String()))
	return ln
}

// tellLines says why lines are not taken (nil: they are), once for each reason.
func (s *service) tellLines(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		err = fmt.Errorf("take lines on %s: %w: free the port, or set replication.listen to another", s.cfg.LineListen, err)
	}
	switch changed := s.noLines.set(err); {
	case changed && err != nil:
		s.log.Error("lines are not taken, so that changes come through NATS, which is slower; it is tried again", "address", s.cfg.LineListen, "error", err)
	case changed:
		s.log.Info("lines are taken", "address", s.cfg.LineListen)
	}
}
