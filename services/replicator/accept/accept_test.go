package accept

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"syscall"
	"testing"
)

// scripted answers each Accept with the next of its results, then waits for its Close.
type scripted struct {
	net.Listener
	results chan any
	closed  chan struct{}
}

func (s *scripted) Accept() (net.Conn, error) {
	select {
	case r := <-s.results:
		if err, ok := r.(error); ok {
			return nil, err
		}
		return r.(net.Conn), nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *scripted) Close() error   { close(s.closed); return nil }
func (s *scripted) Addr() net.Addr { return &net.TCPAddr{} }

func TestTheLoopOutlivesAWantOfDescriptorsAndEndsWithItsContext(t *testing.T) {
	mine, theirs := net.Pipe()
	defer theirs.Close()
	s := &scripted{results: make(chan any, 3), closed: make(chan struct{})}
	s.results <- &net.OpError{Op: "accept", Err: syscall.EMFILE}
	s.results <- &net.OpError{Op: "accept", Err: syscall.ECONNABORTED}
	s.results <- mine
	ctx, cancel := context.WithCancel(t.Context())
	served := false
	err := Loop(ctx, s, slog.New(slog.DiscardHandler), func(ctx context.Context, c net.Conn) {
		cancel()
		<-ctx.Done()
		served = c.Close() == nil
	})
	if err != nil || !served {
		t.Errorf("%v, served %v", err, served)
	}
}

func TestTheLoopEndsWithItsListenerAndWaitsForWhatItServes(t *testing.T) {
	mine, theirs := net.Pipe()
	defer theirs.Close()
	broken := errors.New("broken")
	s := &scripted{results: make(chan any, 2), closed: make(chan struct{})}
	s.results <- mine
	s.results <- broken
	served := false
	err := Loop(t.Context(), s, slog.New(slog.DiscardHandler), func(ctx context.Context, c net.Conn) {
		<-ctx.Done()
		served = c.Close() == nil
	})
	if !errors.Is(err, broken) || !served {
		t.Errorf("%v, served %v", err, served)
	}
}
