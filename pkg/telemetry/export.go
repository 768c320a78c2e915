package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/credentials"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	exportEvery   = 250 * time.Millisecond // what a kill may lose
	exportTimeout = 5 * time.Second
	exportQueue   = 4096 // spans; more are dropped and counted
)

// Stats counts the spans of a provider.
type Stats struct {
	Ended  int64 // made here
	Sent   int64 // taken by the collector
	Failed int64 // given up: the collector did not take them
}

// Lost is how many spans the collector will never have. Those that still wait for their turn are among them.
func (s Stats) Lost() int64 { return s.Ended - s.Sent }

// collector sends spans to an OTLP collector. One that does not answer costs the services nothing: what waits is bounded,
// what is more is dropped, and the log says so once.
type collector struct {
	sdktrace.SpanExporter
	address             string
	log                 *slog.Logger
	ended, sent, failed atomic.Int64
	down                atomic.Bool
}

// newCollector does not wait for the collector. Errors: a CA file that cannot be used, wrapping domain.ErrInvalid.
func newCollector(ctx context.Context, cfg Config) (*collector, error) {
	secure := otlptracegrpc.WithInsecure()
	if !cfg.OTLPInsecure && (cfg.OTLPCA != "" || !SiteLocal(cfg.OTLPEndpoint)) {
		t, err := trust(cfg.OTLPCA)
		if err != nil {
			return nil, fmt.Errorf("send traces to %s: %w", cfg.OTLPEndpoint, err)
		}
		secure = otlptracegrpc.WithTLSCredentials(credentials.NewTLS(t))
	}
	exp, err := otlptracegrpc.New(ctx, otlptracegrpc.WithEndpoint(cfg.OTLPEndpoint), secure, otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: exportEvery, MaxInterval: time.Second, MaxElapsedTime: exportTimeout}))
	if err != nil {
		return nil, fmt.Errorf("send traces to %s: %w", cfg.OTLPEndpoint, err)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &collector{SpanExporter: exp, address: cfg.OTLPEndpoint, log: log.With("site", string(cfg.Site), "service", cfg.Service)}, nil
}

// batcher queues spans for the collector.
func (c *collector) batcher() sdktrace.SpanProcessor {
	return counting{sdktrace.NewBatchSpanProcessor(c, sdktrace.WithBatchTimeout(exportEvery), sdktrace.WithExportTimeout(exportTimeout),
		sdktrace.WithMaxQueueSize(exportQueue)), c}
}

// ExportSpans sends spans. A failure is counted and told here, so it is not an error of the caller's.
func (c *collector) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := c.SpanExporter.ExportSpans(ctx, spans); err != nil {
		c.failed.Add(int64(len(spans)))
		if !c.down.Swap(true) {
			c.log.Warn("traces are not sent: the collector does not take them; nothing else is affected", "collector", c.address, "error", err)
		}
		return nil
	}
	c.sent.Add(int64(len(spans)))
	if c.down.Swap(false) {
		c.log.Info("traces are sent again", "collector", c.address, "lost", c.failed.Load())
	}
	return nil
}

func (c *collector) stats() Stats {
	return Stats{Ended: c.ended.Load(), Sent: c.sent.Load(), Failed: c.failed.Load()}
}

// counting counts what is given to a processor that drops silently.
type counting struct {
	sdktrace.SpanProcessor
	c *collector
}

// OnEnd implements sdktrace.SpanProcessor.
func (p counting) OnEnd(s sdktrace.ReadOnlySpan) {
	p.c.ended.Add(1)
	p.SpanProcessor.OnEnd(s)
}

// trust is TLS with the CAs of a PEM file, the system's without one.
func trust(file string) (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return t, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the collector's CA: %w: %w", domain.ErrInvalid, err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the collector's CA %s: %w: there is no PEM certificate in it", file, domain.ErrInvalid)
	}
	return t, nil
}

// SiteLocal reports whether host:port is within the site as far as one can tell: a loopback or private address, or a name
// without a domain, as a container's. To such a place traces go without TLS unless a CA is given.
func SiteLocal(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast()
	}
	return host != "" && !strings.Contains(strings.TrimSuffix(host, "."), ".")
}
