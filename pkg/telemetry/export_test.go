package telemetry_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// lines collects a log's messages.
type lines struct {
	mu  sync.Mutex
	all []string
	got chan struct{} // has room for one: something was written
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, string(b))
	select {
	case l.got <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (l *lines) with(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(l.all), func(s string) bool { return !strings.Contains(s, text) }))
}

// sink is a collector that hands on the names of the spans it takes.
type sink struct {
	collector.UnimplementedTraceServiceServer
	names chan string
	about chan map[string]string
}

func (s *sink) Export(_ context.Context, req *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	for _, r := range req.ResourceSpans {
		about := map[string]string{}
		for _, a := range r.Resource.Attributes {
			about[a.Key] = a.Value.GetStringValue()
		}
		for _, sc := range r.ScopeSpans {
			for _, sp := range sc.Spans {
				s.names <- sp.Name
				s.about <- about
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func serve(t *testing.T, opts ...grpc.ServerOption) (*sink, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &sink{names: make(chan string, 100), about: make(chan map[string]string, 100)}
	srv := grpc.NewServer(opts...)
	collector.RegisterTraceServiceServer(srv, s)
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	return s, ln.Addr().String()
}

func shutdown(t *testing.T, p *telemetry.Provider, within time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_ = p.Shutdown(ctx)
}

func TestACollectorThatIsGoneSlowsNothingAndIsToldOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close() // nobody answers here
	log := &lines{got: make(chan struct{}, 1)}
	p, err := telemetry.New(t.Context(), telemetry.Config{Site: "a", Service: "holdfast-test", OTLPEndpoint: ln.Addr().String(),
		Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	const many = 20_000
	tracer := p.Tracer("test")
	began := time.Now()
	for range many {
		_, span := tracer.Start(t.Context(), "x")
		span.End()
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d spans took %s with the collector gone", many, took)
	}
	select {
	case <-log.got:
	case <-time.After(30 * time.Second):
		t.Fatal("no warning")
	}
	began = time.Now()
	shutdown(t, p, time.Second)
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("the shutdown took %s", took)
	}
	if n := log.with("traces are not sent"); n != 1 {
		t.Errorf("%d warnings, want 1", n)
	}
	if st := p.Stats(); st.Ended != many || st.Sent != 0 || st.Lost() != many || st.Failed == 0 {
		t.Errorf("%+v", st)
	}
}

func TestAShutdownSendsWhatIsLeft(t *testing.T) {
	s, addr := serve(t)
	p, err := telemetry.New(t.Context(), telemetry.Config{Site: "a", Service: "holdfast-host", Host: "a-h1", OTLPEndpoint: addr})
	if err != nil {
		t.Fatal(err)
	}
	_, span := p.Tracer("test").Start(t.Context(), "the last")
	span.End()
	shutdown(t, p, 5*time.Second)
	if got := <-s.names; got != "the last" {
		t.Errorf("got %q", got)
	}
	about := <-s.about
	if about["service.name"] != "holdfast-host" || about["service.namespace"] != "holdfast" || about["holdfast.site"] != "a" || about["holdfast.host"] != "a-h1" {
		t.Errorf("resource %v", about)
	}
	if st := p.Stats(); st.Lost() != 0 || st.Sent != 1 {
		t.Errorf("%+v", st)
	}
}

func TestACollectorIsCheckedAgainstItsCA(t *testing.T) {
	file, creds := certificate(t)
	s, addr := serve(t, grpc.Creds(creds))
	other, _ := certificate(t)
	for _, c := range []struct {
		ca   string
		want bool
	}{{file, true}, {other, false}, {"", false}} {
		p, err := telemetry.New(t.Context(), telemetry.Config{Site: "a", Service: "holdfast-test", OTLPEndpoint: addr, OTLPCA: c.ca})
		if err != nil {
			t.Fatal(err)
		}
		_, span := p.Tracer("test").Start(t.Context(), "x")
		span.End()
		shutdown(t, p, time.Second)
		if got := p.Stats().Sent == 1; got != c.want {
			t.Errorf("with CA %q: sent %v, want %v", c.ca, got, c.want)
		}
	}
	if len(s.names) != 1 {
		t.Errorf("%d spans came, want 1", len(s.names))
	}
	_, err := telemetry.New(t.Context(), telemetry.Config{OTLPEndpoint: addr, OTLPCA: os.DevNull})
	if !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("an empty CA file: %v", err)
	}
}

func certificate(t *testing.T) (file string, creds credentials.TransportCredentials) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
}

func TestOnlyWhatIsWithinTheSiteGoesWithoutTLS(t *testing.T) {
	for addr, want := range map[string]bool{"jaeger:4317": true, "localhost:4317": true, "127.0.0.1:4317": true, "10.1.2.3:4317": true, "[::1]:4317": true,
		"jaeger.example.org:4317": false, "203.0.113.7:4317": false, "nonsense": false} {
		if got := telemetry.SiteLocal(addr); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

func TestWhatIsToldTwiceIsTheSameSpan(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	p, err := telemetry.New(t.Context(), telemetry.Config{Exporter: spans})
	if err != nil {
		t.Fatal(err)
	}
	tracer := p.Tracer("test")
	root := telemetry.Child(trace.SpanContext{}, "run", "1")
	child := telemetry.Child(root, "step", "1", "promote")
	start := time.Date(2026, 11, 23, 1, 0, 0, 0, time.UTC)
	tell := func() {
		telemetry.Tell(t.Context(), tracer, telemetry.Told{Name: "run", Span: root, Start: start, End: start.Add(time.Minute), Err: "no quorum"})
		telemetry.Tell(t.Context(), tracer, telemetry.Told{Name: "promote", Span: child, Parent: root, Start: start, End: start.Add(time.Second),
			Attributes: []attribute.KeyValue{attribute.Int("n", 1)}})
	}
	tell()
	_, live := tracer.Start(trace.ContextWithSpanContext(t.Context(), child), "of another service")
	live.End()
	tell()
	got := spans.GetSpans()
	if len(got) != 5 {
		t.Fatalf("%d spans", len(got))
	}
	for i, want := range []trace.SpanContext{root, child} {
		a, b := got[i], got[i+3]
		if !a.SpanContext.Equal(b.SpanContext) || a.SpanContext.SpanID() != want.SpanID() || a.SpanContext.TraceID() != root.TraceID() || !a.EndTime.Equal(b.EndTime) {
			t.Errorf("%s is %v, then %v, want %v", a.Name, a.SpanContext, b.SpanContext, want)
		}
	}
	if got[0].Parent.IsValid() || got[0].Status.Description != "no quorum" || got[1].Parent.SpanID() != root.SpanID() || got[2].Parent.SpanID() != child.SpanID() {
		t.Errorf("the tree is wrong: %v", got)
	}
	if id := got[2].SpanContext.SpanID(); id == child.SpanID() || id == root.SpanID() {
		t.Error("a live span took a told one's id")
	}
}
