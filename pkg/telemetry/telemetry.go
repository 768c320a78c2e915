// Package telemetry sets up OpenTelemetry tracing: off by default, to an OTLP collector by configuration, or to any
// exporter a test hands in. Tracers are handed to services; there is no global state.
package telemetry

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Config says where spans go.
type Config struct {
	Site domain.SiteID
	// Service names the process, for example "holdfast-failover".
	Service string
	// Host names the VM host of a host agent; empty for a service of the site.
	Host domain.HostID
	// OTLPEndpoint is host:port of a collector's gRPC port; empty sends nothing. It is reached by TLS, unless it is within the
	// site (see SiteLocal) and no CA is given, or OTLPInsecure says so.
	OTLPEndpoint string
	OTLPCA       string // file of PEM certificates the collector's must come from; empty: the system's
	OTLPInsecure bool
	Logger       *slog.Logger // told once when the collector does not take spans; nil: nobody
	// Exporter, when given, receives every span as well. For the all-in-one's report and for tests.
	Exporter sdktrace.SpanExporter
}

// Provider makes tracers and is shut down at the end.
type Provider struct {
	trace.TracerProvider
	sdk       *sdktrace.TracerProvider
	collector *collector // nil: none
}

// New builds the provider. With neither an endpoint nor an exporter the spans are still made, so that trace ids exist and
// cross the bus, but go nowhere.
func New(ctx context.Context, cfg Config) (*Provider, error) {
	about := []attribute.KeyValue{attribute.String("service.name", cfg.Service), attribute.String("service.namespace", "holdfast"),
		attribute.String("holdfast.site", string(cfg.Site))}
	if cfg.Host != "" {
		about = append(about, attribute.String("holdfast.host", string(cfg.Host)))
	}
	p := &Provider{}
	opts := []sdktrace.TracerProviderOption{sdktrace.WithResource(resource.NewSchemaless(about...)), sdktrace.WithIDGenerator(ids{}),
		sdktrace.WithSampler(sdktrace.AlwaysSample())}
	if cfg.OTLPEndpoint != "" {
		c, err := newCollector(ctx, cfg)
		if err != nil {
			return nil, err
		}
		p.collector = c
		opts = append(opts, sdktrace.WithSpanProcessor(c.batcher()))
	}
	if cfg.Exporter != nil {
		opts = append(opts, sdktrace.WithSyncer(cfg.Exporter))
	}
	p.sdk = sdktrace.NewTracerProvider(opts...)
	p.TracerProvider = p.sdk
	return p, nil
}

// Stats counts the spans for the collector; zero without one.
func (p *Provider) Stats() Stats {
	if p.collector == nil {
		return Stats{}
	}
	return p.collector.stats()
}

// Disabled is a provider whose spans record nothing.
func Disabled() *Provider { return &Provider{TracerProvider: noop.NewTracerProvider()} }

// Shutdown sends what is left, within ctx.
func (p *Provider) Shutdown(ctx context.Context) error {
	if p.sdk == nil {
		return nil
	}
	return p.sdk.Shutdown(ctx)
}

// End closes a span with the outcome of what it measured.
func End(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// Parent is the W3C traceparent of ctx's span, empty when it has none.
func Parent(ctx context.Context) string {
	c := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, c)
	return c["traceparent"]
}

// WithParent is ctx as a child of a W3C traceparent; ctx itself when the text is empty or damaged.
func WithParent(ctx context.Context, traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": traceparent})
}
