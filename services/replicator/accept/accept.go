// Package accept takes the connections of a listener: the one accept loop of every door to a volume.
package accept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"
)

// pause is how long a loop waits that could not accept, for descriptors to come free.
const pause = 100 * time.Millisecond

// Loop calls serve with each connection of ln, in a goroutine of its own, until ctx ends or ln fails. Either closes ln, and
// ends the ctx that serve is given, upon which serve has to return; Loop then waits for every serve. It returns nil when ctx
// ended. Having no descriptors or memory for a connection is logged and outlived: those there are are served on.
func Loop(ctx context.Context, ln net.Listener, log *slog.Logger, serve func(ctx context.Context, c net.Conn)) error {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
	defer func() {
		cancel()
		wg.Wait()
		stop()
	}()
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			wg.Go(func() { serve(ctx, c) })
		case ctx.Err() != nil:
			return nil
		case passing(err):
			log.Error("accept failed; it is tried again", "address", ln.Addr().String(), "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		default:
			return fmt.Errorf("accept on %s: %w", ln.Addr(), err)
		}
	}
}

// passing reports whether an accept may succeed later.
func passing(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
