package dns_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/dns"
	"github.com/holdfast-dr/holdfast/services/dns/internal/bindtest"
	"github.com/holdfast-dr/holdfast/services/dns/rfc2136"
)

func TestAFailoverMovesTheNameAtEverySiteAndIsTold(t *testing.T) {
	a, b := sites(t)
	a.held.Store(domain.GroupID("erp"), true)
	a.start()
	b.start()
	a.becomes(addressA)
	a.held.Store(domain.GroupID("erp"), false)
	b.held.Store(domain.GroupID("erp"), true)
	facts := b.facts()

	got := b.mustChange(addressA, addressB, e2)
	if got.Name != name || got.Before != addressA || got.After != addressB || got.Authority != b.addr || got.AuthoritySeconds <= 0 || got.AuthoritySeconds > 5 {
		t.Fatalf("%+v", got)
	}
	if r := resolve(t, b.addr); r != addressB {
		t.Fatalf("b answers %s after the change was verified", r)
	}
	a.becomes(addressB) // pushed
	if f := next(t, facts); f.Fact != "changed" || f.Name != name || f.Before != addressA || f.After != addressB || f.Epoch != e2 || f.Group != "erp" || f.AuthoritySeconds <= 0 {
		t.Fatalf("%+v", f)
	}
	if again := b.mustChange(addressA, addressB, e2); again.Before != addressA || again.After != addressB {
		t.Fatalf("a repeat: %+v", again)
	}
	_, err := b.change(addressA, "10.9.9.9", e2)
	if !errors.Is(err, domain.ErrConflict) || !strings.Contains(err.Error(), "found "+addressB) {
		t.Fatalf("a stale mover: %v", err)
	}
	if f := next(t, facts); f.Fact != "refused" || f.After != "10.9.9.9" || !strings.Contains(f.Reason, "found "+addressB) {
		t.Fatalf("%+v", f)
	}
	if _, err := a.change(addressB, addressA, e1); !errors.Is(err, domain.ErrStaleEpoch) { // at the other site too
		t.Fatalf("a lower epoch: %v", err)
	}
	r, err := bus.Call[api.DNSRecord](t.Context(), a.mesh.Local(), api.ServiceDNS, api.VerbLookup, api.DNSLookup{Name: "erp.HF.example", Type: "A"})
	if err != nil || r.Value != addressB || r.Epoch != e2 || r.Group != "erp" {
		t.Fatalf("%+v, %v", r, err)
	}
	changed, merged := spansOf(b, "dns.change"), spansOf(a, "dns.merge")
	if !slices.ContainsFunc(merged, func(m tracetest.SpanStub) bool { return m.SpanContext.TraceID() == changed[0].SpanContext.TraceID() }) {
		t.Errorf("the change at b is in none of the %d traces of merges at a", len(merged))
	}
}

func TestASiteThatLostItsLeaseDoesNotAnswerWithItsOwnAddress(t *testing.T) {
	a, b := sites(t)
	a.start()
	b.start()
	if r := resolve(t, a.addr); r != "SERVFAIL" {
		t.Fatalf("before it ever held the lease it answers %s", r)
	}
	a.held.Store(domain.GroupID("erp"), true)
	a.becomes(addressA)
	b.becomes(addressA) // b may tell where a's VM is
	a.held.Store(domain.GroupID("erp"), false)
	a.becomes("SERVFAIL")
	if _, err := a.change(addressA, addressA, e1); !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), "holds no lease") {
		t.Fatalf("a change that cannot be verified here: %v", err)
	}
}

func TestAReturningSiteNeverAnswersTheOldAddress(t *testing.T) {
	a, b := sites(t)
	a.cfg.SiteIndex, a.cfg.OwnAddresses = 0, nil // without the lease's protection: the pull alone must do
	b.held.Store(domain.GroupID("erp"), true)
	a.start()
	b.start()
	a.becomes(addressA)
	a.stop()
	b.mustChange(addressA, addressB, e2)

	asked, heard, addr := make(chan struct{}), make(chan string, 1), a.addr
	go func() {
		c := mdns.Client{Timeout: 100 * time.Millisecond}
		close(asked)
		for {
			if r, _, err := c.Exchange(new(mdns.Msg).SetQuestion(name, mdns.TypeA), addr); err == nil {
				heard <- fmt.Sprint(r.Answer)
				return
			}
			if t.Context().Err() != nil {
				return
			}
		}
	}()
	<-asked
	a.start()
	if first := <-heard; !strings.Contains(first, addressB) {
		t.Fatalf("its first answer is %s", first)
	}
}

func TestAChangeReachesAPeerThatWasAway(t *testing.T) {
	a, b := sites(t)
	a.held.Store(domain.GroupID("erp"), true)
	a.start()
	a.mustChange(addressA, "10.1.0.11", e1) // b's dns service has not started
	a.mustChange("10.1.0.11", "10.1.0.12", e1)
	var merges atomic.Int32
	got, hold := make(chan api.DNSRecords, 16), make(chan struct{})
	err := b.mesh.Local().Serve(t.Context(), api.ServiceDNS, map[string]bus.Endpoint{
		api.VerbMerge: bus.Answer(func(ctx context.Context, r api.DNSRecords) (api.Empty, error) {
			if merges.Add(1) < 3 {
				return api.Empty{}, fmt.Errorf("disk full: %w", domain.ErrUnavailable)
			}
			got <- r
			<-hold
			return api.Empty{}, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	arrives := func(value string) {
		t.Helper()
		select {
		case r := <-got:
			if len(r.Records) != 1 || r.Records[0].Value != value || r.Records[0].Epoch != e1 {
				t.Fatalf("%+v, want %s", r, value)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s was not pushed", value)
		}
	}
	arrives("10.1.0.12") // only the newest, after two failures
	a.mustChange("10.1.0.12", "10.1.0.13", e1)
	close(hold) // the answer to the push of the older one comes now
	arrives("10.1.0.13")
}

func TestAKilledServiceKeepsWhatItAnswered(t *testing.T) {
	a, _ := sites(t)
	a.held.Store(domain.GroupID("erp"), true)
	for i := range 5 {
		a.start()
		old, to := fmt.Sprintf("10.1.0.%d", 10+i), fmt.Sprintf("10.1.0.%d", 11+i)
		a.mustChange(old, to, e3)
		a.stop()
	}
	a.start()
	a.becomes("10.1.0.15")
}

func TestANameAtBINDIsChangedVerifiedAndTold(t *testing.T) {
	named := bindtest.Start(t)
	a, _ := sites(t)
	a.cfg.Servers = []rfc2136.Config{{Server: named.Addr, Zone: bindtest.Zone, Key: named.Key, EpochTXT: true}}
	a.start()
	facts := a.facts()
	req := api.DNSChange{Name: "erp.corp.example", Type: "A", Old: "10.0.0.1", New: "10.2.0.1", TTL: 5, Group: "erp", Epoch: e2}
	call := func(r api.DNSChange) (api.DNSChanged, error) {
		return bus.Call[api.DNSChanged](t.Context(), a.mesh.Local(), api.ServiceDNS, api.VerbChange, r)
	}
	got, err := call(req)
	if err != nil || got.Before != "10.0.0.1" || got.After != "10.2.0.1" || got.Authority != named.Addr || got.AuthoritySeconds <= 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if f := next(t, facts); f.Fact != "changed" || f.Before != "10.0.0.1" || f.After != "10.2.0.1" {
		t.Fatalf("%+v", f)
	}
	if got, err = call(req); err != nil || got.Before != "10.0.0.1" {
		t.Fatalf("a repeat: %+v, %v", got, err)
	}
	stale := req
	stale.New = "10.3.0.1"
	if _, err := call(stale); !errors.Is(err, domain.ErrConflict) {
		t.Fatalf("a stale mover: %v", err)
	}
	stale.Old, stale.Epoch = "10.2.0.1", e1
	if _, err := call(stale); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatalf("a lower epoch: %v", err)
	}
	r, err := bus.Call[api.DNSRecord](t.Context(), a.mesh.Local(), api.ServiceDNS, api.VerbLookup, api.DNSLookup{Name: "erp.corp.example", Type: "A"})
	if err != nil || r.Value != "10.2.0.1" || r.Epoch != e2 {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestBadRequestsAreRefusedWithTheirReason(t *testing.T) {
	a, _ := sites(t)
	a.start()
	for _, tc := range []struct {
		req  api.DNSChange
		want error
	}{
		{api.DNSChange{Name: "erp.elsewhere.example", Type: "A", New: "10.0.0.1", Group: "erp", Epoch: e1}, domain.ErrRefused},
		{api.DNSChange{Name: "hf.example", Type: "A", New: "10.0.0.1", Group: "erp", Epoch: e1}, domain.ErrRefused},
		{api.DNSChange{Name: "erp.hf.example", Type: "MX", New: "10.0.0.1", Group: "erp", Epoch: e1}, domain.ErrInvalid},
		{api.DNSChange{Name: "erp.hf.example", Type: "A", New: "no address", Group: "erp", Epoch: e1}, domain.ErrInvalid},
		{api.DNSChange{}, domain.ErrInvalid},
	} {
		_, err := bus.Call[api.DNSChanged](t.Context(), a.mesh.Local(), api.ServiceDNS, api.VerbChange, tc.req)
		if !errors.Is(err, tc.want) {
			t.Errorf("%+v: %v, want %v", tc.req, err, tc.want)
		}
	}
	_, err := bus.Call[api.DNSRecord](t.Context(), a.mesh.Local(), api.ServiceDNS, api.VerbLookup, api.DNSLookup{Name: "none.hf.example", Type: "A"})
	if !errors.Is(err, domain.ErrNotFound) {
		t.Errorf("look up what is not there: %v", err)
	}
}

func TestRunFailsNamingWhatIsWrong(t *testing.T) {
	a, _ := sites(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	damaged := filepath.Join(t.TempDir(), "zone")
	if err := os.WriteFile(damaged, []byte("holdfast-zone 1 00000000 2\n{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		spoil func(*dns.Config)
		says  string
	}{
		{"a port in use", func(c *dns.Config) { c.Listen = taken.Addr().String() }, taken.Addr().String()},
		{"a damaged zone file", func(c *dns.Config) { c.StateFile = damaged }, damaged},
		{"no name server", func(c *dns.Config) { c.Authority.NameServers = nil }, "name_servers"},
		{"a peer that is no site", func(c *dns.Config) { c.Peers = []domain.SiteID{"z"} }, "dns.peers"},
		{"a record of another zone", func(c *dns.Config) { c.Records = []api.DNSRecord{{Name: "x.example", Type: "A", Value: "10.0.0.1"}} }, "dns.records"},
		{"no zone and no server", func(c *dns.Config) { c.Zone, c.Records = "", nil }, "dns.zone"},
		{"an own address that is none", func(c *dns.Config) { c.OwnAddresses = []string{"here"} }, "own_addresses"},
		{"a server's key without a secret", func(c *dns.Config) {
			c.Servers = []rfc2136.Config{{Server: "127.0.0.1:53", Zone: "corp.example", Key: rfc2136.Key{Name: "k", Secret: base64.StdEncoding.EncodeToString(nil)}}}
		}, "dns.servers"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := a.cfg
			tc.spoil(&cfg)
			err := dns.Run(t.Context(), cfg, dns.Deps{Mesh: a.mesh, Tracer: telemetry.Disabled(), Log: slog.New(slog.DiscardHandler)})
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("error %v", err)
			}
		})
	}
}
