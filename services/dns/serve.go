package dns

import (
	"context"
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

func (s *service) endpoints() map[string]bus.Endpoint {
	return map[string]bus.Endpoint{
		api.VerbChange:  bus.Answer(s.change),
		api.VerbLookup:  bus.Answer(s.lookup),
		api.VerbRecords: bus.Answer(s.records),
		api.VerbMerge:   bus.Answer(s.merge),
	}
}

// change does a change at the name's backend, verifies it there, tells the peers and publishes the fact.
func (s *service) change(ctx context.Context, req api.DNSChange) (reply api.DNSChanged, err error) {
	began := clock.Now()
	ctx, span := s.tracer.Start(ctx, "dns.change", trace.WithAttributes(attribute.String("phase", "dns"), attribute.String("site", string(s.cfg.Site)),
		attribute.String("name", req.Name), attribute.String("type", req.Type), attribute.String("new", req.New),
		attribute.String("group", string(req.Group)), attribute.Int64("epoch", int64(req.Epoch)), attribute.String("run", string(req.RunID))))
	changed := false
	defer func() {
		s.meters.observe(clock.Now().Sub(began), changed, err)
		telemetry.End(span, err)
	}()

	ch := zone.Change{Name: req.Name, Type: zone.Type(req.Type), Old: req.Old, New: req.New, TTL: req.TTL, Group: req.Group, Epoch: req.Epoch, OldIsAny: req.OldIsAny}
	if ch, err = ch.Canonical(); err != nil {
		return api.DNSChanged{}, err
	}
	log := s.log.With("name", ch.Name, "group", string(ch.Group), "epoch", ch.Epoch.String())
	b, err := route(s.backends, ch.Name)
	var out zone.Outcome
	if err == nil {
		out, err = b.Change(ctx, ch)
	}
	if out.Record.Name != "" && b == s.ownBackend() { // applied, whether or not it was read back
		for _, p := range s.pushers {
			p.add(ctx, []zone.Record{out.Record})
		}
	}
	if err != nil {
		log.Warn("name not changed", "error", err)
		s.publishRefused(ctx, ch, err)
		return api.DNSChanged{}, err
	}
	took := clock.Now().Sub(began)
	span.SetAttributes(attribute.Float64("authority_seconds", took.Seconds()), attribute.Bool("repeat", !out.Changed))
	if changed = out.Changed; changed {
		log.Info("name changed", "before", out.Before, "after", ch.New, "authority", b.Addr(), "took", took)
	}
	s.events.Publish(ctx, changeID(ch, "changed"), fact("changed", ch, out, took.Seconds(), ""))
	return api.DNSChanged{Name: ch.Name, Before: out.Before, After: ch.New, AuthoritySeconds: took.Seconds(), Authority: b.Addr()}, nil
}

// ownBackend is the own authority, nil without a zone.
func (s *service) ownBackend() backend {
	for _, b := range s.backends {
		if _, ok := b.(*ownAuthority); ok {
			return b
		}
	}
	return nil
}

// publishRefused tells that a safety check said no. An outage is no refusal: the caller repeats.
func (s *service) publishRefused(ctx context.Context, ch zone.Change, err error) {
	if refused(err) {
		s.events.Publish(ctx, changeID(ch, "refused-"+domain.Code(err)), fact("refused", ch, zone.Outcome{Before: ch.Old}, 0, err.Error()))
	}
}

// changeID is the same for a repeat of the same change.
func changeID(ch zone.Change, fact string) string {
	return strings.Join([]string{ch.Name + string(ch.Type), fmt.Sprint(int64(ch.Epoch)), ch.Old, ch.New, fmt.Sprint(ch.TTL), fact}, "-")
}

func fact(what string, ch zone.Change, out zone.Outcome, seconds float64, reason string) *event.NameChanged {
	ttl := out.Record.TTL
	if ttl == 0 {
		ttl = ch.TTL
	}
	return &event.NameChanged{Fact: what, Name: ch.Name, Type: string(ch.Type), Before: out.Before, After: ch.New, TTL: ttl, Group: ch.Group,
		Epoch: ch.Epoch, AuthoritySeconds: seconds, Reason: reason}
}

func (s *service) lookup(ctx context.Context, req api.DNSLookup) (api.DNSRecord, error) {
	b, err := route(s.backends, req.Name)
	if err != nil {
		return api.DNSRecord{}, err
	}
	if t := zone.Type(req.Type); t != zone.A && t != zone.AAAA {
		return api.DNSRecord{}, fmt.Errorf("look up %s: type %q: want A or AAAA: %w", req.Name, req.Type, domain.ErrInvalid)
	}
	r, err := b.Lookup(ctx, req.Name, zone.Type(req.Type))
	if err != nil {
		return api.DNSRecord{}, err
	}
	return toAPI(r), nil
}

// records is this site's copy of the delegated zone, the deleted records included.
func (s *service) records(context.Context, api.Empty) (api.DNSRecords, error) {
	if s.own == nil {
		return api.DNSRecords{Records: []api.DNSRecord{}}, nil
	}
	return allToAPI(s.own.zone().Records()), nil
}

func (s *service) merge(ctx context.Context, req api.DNSRecords) (reply api.Empty, err error) {
	ctx, span := s.tracer.Start(ctx, "dns.merge", trace.WithAttributes(attribute.Int("records", len(req.Records))))
	defer func() { telemetry.End(span, err) }()
	if s.own == nil {
		return api.Empty{}, fmt.Errorf("merge names: this site serves no delegated zone: %w", domain.ErrRefused)
	}
	return api.Empty{}, s.takeOver(ctx, "", allFromAPI(req))
}
