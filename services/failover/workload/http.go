package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	maxBody           = 64 << 10
	digestPage        = 1000
	readHeaderTimeout = 10 * time.Second
)

// Handler answers POST /append, GET /status, GET /log?from=N&limit=N and GET /healthz.
func (v *VM) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /append", v.traced("vm append", v.handleAppend))
	mux.HandleFunc("GET /status", v.traced("vm status", func(_ context.Context, w http.ResponseWriter, _ *http.Request) error {
		return reply(w, v.Status())
	}))
	mux.HandleFunc("GET /log", v.traced("vm log", v.handleLog))
	mux.HandleFunc("GET /healthz", v.handleHealth)
	return mux
}

// traced runs a handler in a span that continues the client's trace, and answers its error. A client that sends no trace
// gets none: a VM under load would fill the collector.
func (v *VM) traced(name string, f func(context.Context, http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := trace.ContextWithSpanContext(r.Context(), trace.SpanContext{}) // not the trace of the VM's start
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
		tracer := v.deps.Tracer
		if !trace.SpanContextFromContext(ctx).IsValid() {
			tracer = noop.Tracer{}
		}
		ctx, span := tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
			attribute.String("vm", string(v.spec.VM)), attribute.String("site", string(v.spec.Site)),
			attribute.String("group", string(v.spec.Group)), attribute.Int64("epoch", int64(v.spec.Epoch))))
		defer span.End()
		if err := f(ctx, w, r); err != nil {
			span.SetStatus(codes.Error, err.Error())
			http.Error(w, err.Error(), statusOf(err))
		}
	}
}

func statusOf(err error) int {
	var large *http.MaxBytesError
	switch {
	case errors.Is(err, ErrFull):
		return http.StatusInsufficientStorage
	case errors.Is(err, ErrPayload) || errors.As(err, &large):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, domain.ErrInvalid):
		return http.StatusBadRequest
	case errors.Is(err, domain.ErrNoLease) || errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func (v *VM) handleAppend(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	ack, err := v.Append(ctx, body)
	if err != nil {
		return err
	}
	trace.SpanFromContext(ctx).SetAttributes(attribute.Int64("seq", int64(ack.Seq)))
	return reply(w, ack)
}

func (v *VM) handleLog(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	number := func(key string, otherwise uint64) (uint64, error) {
		s := r.URL.Query().Get(key)
		if s == "" {
			return otherwise, nil
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s=%.20q: want a number: %w", key, s, domain.ErrInvalid)
		}
		return n, nil
	}
	from, err1 := number("from", 1)
	limit, err2 := number("limit", digestPage)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	records, err := v.Digests(from, int(min(limit, digestPage)))
	if err != nil {
		return err
	}
	return reply(w, struct {
		Records []Digest `json:"records"`
	}{records})
}

// handleHealth is the port probe: well only while the VM may acknowledge.
func (v *VM) handleHealth(w http.ResponseWriter, _ *http.Request) {
	if err := errors.Join(v.Err(), v.deps.Gate()); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

func reply(w http.ResponseWriter, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode reply: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // a client that left is no error of the VM
	return nil
}

// Serve answers on ln until ctx ends, which is loss of power (connections are cut), until stop is closed (answers on
// their way may leave within grace(), then the rest is cut), or until the VM fails. It closes ln.
func (v *VM) Serve(ctx context.Context, ln net.Listener, stop <-chan struct{}, grace func() time.Duration) error {
	srv := &http.Server{Handler: v.Handler(), ReadHeaderTimeout: readHeaderTimeout, BaseContext: func(net.Listener) context.Context { return v.life }}
	var served error // of Serve, once ended is closed
	ended := make(chan struct{})
	go func() { defer close(ended); served = srv.Serve(ln) }()
	var err error
	select {
	case <-stop:
		gctx, cancel := context.WithTimeout(ctx, grace())
		_ = srv.Shutdown(gctx)
		cancel()
	case <-ctx.Done():
	case <-v.failed:
		err = v.Err()
	case <-ended:
		err = served
	}
	_ = srv.Close()
	<-ended
	return err
}
