package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Listen answers GET /healthz and, with metrics, GET /metrics at address until ctx ends; stop ends it sooner and waits. An
// empty address is off. Errors: an address that is taken or cannot be had, wrapping domain.ErrUnavailable.
func Listen(ctx context.Context, address string, health, metrics http.Handler) (stop func(), err error) {
	if address == "" {
		return func() {}, nil
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("serve health and metrics on %s: %w: %w: stop what holds the port, or set another in metrics.listen, or in metrics.ports for this service alone",
			address, domain.ErrUnavailable, err)
	case err != nil:
		return nil, fmt.Errorf("serve health and metrics on %s: %w: %w: give metrics.listen an address of this machine", address, domain.ErrUnavailable, err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", health)
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln) // ends with Close only
	}()
	unhook := context.AfterFunc(ctx, func() { _ = srv.Close() })
	return func() {
		unhook()
		_ = srv.Close()
		<-done
	}, nil
}
