package authority

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

func exampleZone(t testing.TB) zone.Zone {
	t.Helper()
	z, err := zone.New("hf.example")
	if err != nil {
		t.Fatal(err)
	}
	z, err = z.Seed([]zone.Record{
		{Name: "ns1.hf.example", Type: zone.A, Value: "192.0.2.53", TTL: 60},
		{Name: "erp.hf.example", Type: zone.A, Value: "10.0.0.1", Group: "erp"},
		{Name: "erp.hf.example", Type: zone.AAAA, Value: "2001:db8::1", Group: "erp"},
		{Name: "web.b.hf.example", Type: zone.AAAA, Value: "2001:db8::2", TTL: 30, Group: "web"},
		{Name: "cut.hf.example", Type: zone.A, Value: "10.0.0.9", Group: "cut"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func notCut(name string) bool { return name != "cut.hf.example." }

type running struct {
	*Server
	zone atomic.Pointer[zone.Zone]
}

func serve(t *testing.T, cfg Config) *running {
	t.Helper()
	r := &running{}
	z := exampleZone(t)
	r.zone.Store(&z)
	s, err := Listen(t.Context(), "127.0.0.1:0", cfg, func() zone.Zone { return *r.zone.Load() }, notCut, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func ask(t *testing.T, network, addr string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: 3 * time.Second, UDPSize: 512}
	r, _, err := c.Exchange(m, addr)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func question(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

func TestAnswers(t *testing.T) {
	s := serve(t, Config{NameServers: []string{"ns1.hf.example", "ns2.elsewhere.example"}})
	soa := []string{"SOA ns1.hf.example. hostmaster.hf.example."}
	for _, tc := range []struct {
		name   string
		q      string
		qtype  uint16
		rcode  int
		aa     bool
		answer []string // parts of each record, in order
		ns     []string
		extra  []string
	}{
		{name: "A", q: "erp.hf.example.", qtype: dns.TypeA, aa: true, answer: []string{"erp.hf.example. 5 IN A 10.0.0.1"}},
		{name: "AAAA", q: "erp.hf.example.", qtype: dns.TypeAAAA, aa: true, answer: []string{"AAAA 2001:db8::1"}},
		{name: "the case of the question is kept", q: "ErP.hF.eXample.", qtype: dns.TypeA, aa: true, answer: []string{"ErP.hF.eXample. 5 IN A 10.0.0.1"}},
		{name: "any type is one of them", q: "erp.hf.example.", qtype: dns.TypeANY, aa: true, answer: []string{"A 10.0.0.1"}},
		{name: "a type the name lacks", q: "web.b.hf.example.", qtype: dns.TypeA, aa: true, ns: soa},
		{name: "a type nobody has", q: "erp.hf.example.", qtype: dns.TypeMX, aa: true, ns: soa},
		{name: "an empty non-terminal", q: "b.hf.example.", qtype: dns.TypeA, aa: true, ns: soa},
		{name: "no such name", q: "none.hf.example.", qtype: dns.TypeA, rcode: dns.RcodeNameError, aa: true, ns: soa},
		{name: "SOA", q: "hf.example.", qtype: dns.TypeSOA, aa: true, answer: soa},
		{name: "NS with the address of the one within the zone", q: "hf.example.", qtype: dns.TypeNS, aa: true,
			answer: []string{"NS ns1.hf.example.", "NS ns2.elsewhere.example."}, extra: []string{"ns1.hf.example. 60 IN A 192.0.2.53"}},
		{name: "no address at the apex", q: "hf.example.", qtype: dns.TypeA, aa: true, ns: soa},
		{name: "outside the zone", q: "www.example.", qtype: dns.TypeA, rcode: dns.RcodeRefused},
		{name: "a name that only ends like the zone", q: "nothf.example.", qtype: dns.TypeA, rcode: dns.RcodeRefused},
		{name: "an escaped dot is no label's end", q: `x\.hf.example.`, qtype: dns.TypeA, rcode: dns.RcodeRefused},
		{name: "bytes that are no host name", q: `\000\255\..hf.example.`, qtype: dns.TypeA, rcode: dns.RcodeNameError, aa: true, ns: soa},
		{name: "the root", q: ".", qtype: dns.TypeNS, rcode: dns.RcodeRefused},
		{name: "no transfer", q: "hf.example.", qtype: dns.TypeAXFR, rcode: dns.RcodeRefused},
		{name: "a name this site may not answer for", q: "cut.hf.example.", qtype: dns.TypeA, rcode: dns.RcodeServerFailure},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(tc.name+"/"+network, func(t *testing.T) {
				r := ask(t, network, s.Addr(), question(tc.q, tc.qtype))
				if r.Rcode != tc.rcode || r.Authoritative != tc.aa || r.RecursionAvailable || r.Truncated {
					t.Fatalf("got\n%v", r)
				}
				compare(t, "answer", r.Answer, tc.answer)
				compare(t, "authority", r.Ns, tc.ns)
				compare(t, "additional", r.Extra, tc.extra)
			})
		}
	}
}

func compare(t *testing.T, section string, got []dns.RR, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %v, want %q", section, got, want)
	}
	for i := range got {
		if text := strings.ReplaceAll(got[i].String(), "\t", " "); !strings.Contains(text, want[i]) {
			t.Errorf("%s: %q, want %q", section, text, want[i])
		}
	}
}

func TestAChangeIsSeenByTheNextQuestion(t *testing.T) {
	s := serve(t, Config{NameServers: []string{"ns1.hf.example"}})
	before := ask(t, "udp", s.Addr(), question("hf.example.", dns.TypeSOA)).Answer[0].(*dns.SOA).Serial
	z, _, err := s.zone.Load().Apply(zone.Change{Name: "erp.hf.example", Type: zone.A, Old: "10.0.0.1", New: "10.1.0.1", Group: "erp", Epoch: domain.NewEpoch(0, 1, 2)})
	if err != nil {
		t.Fatal(err)
	}
	s.zone.Store(&z)
	compare(t, "answer", ask(t, "udp", s.Addr(), question("erp.hf.example.", dns.TypeA)).Answer, []string{"A 10.1.0.1"})
	if after := ask(t, "udp", s.Addr(), question("hf.example.", dns.TypeSOA)).Answer[0].(*dns.SOA).Serial; after <= before {
		t.Errorf("serial %d -> %d", before, after)
	}
}

func TestOtherOpcodesClassesAndVersions(t *testing.T) {
	s := serve(t, Config{NameServers: []string{"ns1.hf.example"}})
	chaos := question("erp.hf.example.", dns.TypeA)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	notify := new(dns.Msg).SetNotify("hf.example.")
	update := new(dns.Msg).SetUpdate("hf.example.")
	version := question("erp.hf.example.", dns.TypeA)
	version.SetEdns0(1232, false)
	version.IsEdns0().SetVersion(1)
	twice := question("erp.hf.example.", dns.TypeA)
	twice.SetEdns0(1232, false)
	twice.SetEdns0(1232, false)
	two := question("erp.hf.example.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	for _, tc := range []struct {
		name string
		m    *dns.Msg
		want int
	}{
		{"another class", chaos, dns.RcodeRefused}, {"notify", notify, dns.RcodeNotImplemented}, {"update", update, dns.RcodeNotImplemented},
		{"EDNS version 1", version, dns.RcodeBadVers}, {"two OPT records", twice, dns.RcodeFormatError}, {"two questions", two, dns.RcodeFormatError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if r := ask(t, "udp", s.Addr(), tc.m); r.Rcode != tc.want || len(r.Answer) > 0 {
				t.Fatalf("got %s, want %s", dns.RcodeToString[r.Rcode], dns.RcodeToString[tc.want])
			}
		})
	}
}

func TestAReplyThatDoesNotFitIsTruncatedAndWholeOverTCP(t *testing.T) {
	cfg := Config{}
	for i := range 30 {
		cfg.NameServers = append(cfg.NameServers, fmt.Sprintf("ns%d.%s.example", i, strings.Repeat("x", 60-i)))
	}
	s := serve(t, cfg)
	raw := func(m *dns.Msg) (*dns.Msg, int) {
		t.Helper()
		c, err := net.Dial("udp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		p, _ := m.Pack()
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(3 * time.Second))
		buf := make([]byte, 65535)
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		r := new(dns.Msg)
		if err := r.Unpack(buf[:n]); err != nil {
			t.Fatal(err)
		}
		return r, n
	}
	for _, tc := range []struct{ offered, limit int }{{0, 512}, {100, 512}, {900, 900}, {4096, 1232}} {
		m := question("hf.example.", dns.TypeNS)
		if tc.offered > 0 {
			m.SetEdns0(uint16(tc.offered), true)
		}
		r, n := raw(m)
		if !r.Truncated || n > tc.limit {
			t.Errorf("offered %d: %d bytes, truncated %v", tc.offered, n, r.Truncated)
		}
		if o := r.IsEdns0(); tc.offered > 0 && (o == nil || o.UDPSize() != 1232 || !o.Do()) || tc.offered == 0 && o != nil {
			t.Errorf("offered %d: OPT %v", tc.offered, o)
		}
	}
	if r := ask(t, "tcp", s.Addr(), question("hf.example.", dns.TypeNS)); r.Truncated || len(r.Answer) != 30 {
		t.Errorf("over TCP: truncated %v, %d name servers", r.Truncated, len(r.Answer))
	}
}

// askUntilHeard asks over UDP as a resolver does: again when the question was lost, here because the flood fills the socket.
func askUntilHeard(t *testing.T, addr string, m *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: "udp", Timeout: 500 * time.Millisecond}
	for range 20 {
		if r, _, err := c.Exchange(m, addr); err == nil {
			return r
		}
	}
	t.Fatal("nothing heard in 20 tries")
	return nil
}

func TestGarbageGetsABoundedNumberOfRepliesAndHarmsNobody(t *testing.T) {
	s := serve(t, Config{NameServers: []string{"ns1.hf.example"}})
	c, err := net.Dial("udp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var replies atomic.Int64
	read := make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 4096)
		for {
			if _, err := c.Read(buf); err != nil {
				return
			}
			replies.Add(1)
		}
	}()
	start := time.Now()
	bad := []byte{0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63, 'x'} // one question, cut off
	for i := range 3000 {
		bad[1] = byte(i)
		if _, err := c.Write(bad); err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 { // a question among them is answered: the flood has passed so far
			compare(t, "answer", ask(t, "tcp", s.Addr(), question("erp.hf.example.", dns.TypeA)).Answer, []string{"A 10.0.0.1"})
		}
	}
	compare(t, "answer", askUntilHeard(t, s.Addr(), question("erp.hf.example.", dns.TypeA)).Answer, []string{"A 10.0.0.1"})
	allowed := int64(errorRepliesPerSec * (2 + time.Since(start).Seconds()))
	_ = c.SetReadDeadline(time.Now())
	<-read
	if n := replies.Load(); n == 0 || n > allowed {
		t.Errorf("%d replies, want 1 to %d", n, allowed)
	}
}

func TestRunEndsAtOnceWithIdleConnectionsOpen(t *testing.T) {
	z := exampleZone(t)
	s, err := Listen(t.Context(), "127.0.0.1:0", Config{NameServers: []string{"ns1.hf.example"}}, func() zone.Zone { return z }, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	c, err := dns.DialTimeout("tcp", s.Addr(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.WriteMsg(question("erp.hf.example.", dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadMsg(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("took %s", d)
	}
}

func TestRunThatIsCancelledBeforeItStartsEnds(t *testing.T) {
	z := exampleZone(t)
	s, err := Listen(t.Context(), "127.0.0.1:0", Config{NameServers: []string{"ns1.hf.example"}}, func() zone.Zone { return z }, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestAPortInUseIsNamed(t *testing.T) {
	first := serve(t, Config{NameServers: []string{"ns1.hf.example"}})
	_, err := Listen(t.Context(), first.Addr(), Config{NameServers: []string{"ns1.hf.example"}}, func() zone.Zone { return exampleZone(t) }, nil, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), first.Addr()) || !strings.Contains(err.Error(), "dns.listen") {
		t.Fatalf("error %v", err)
	}
}

func FuzzReply(f *testing.F) {
	for _, m := range []*dns.Msg{question("erp.hf.example.", dns.TypeA), question("hf.example.", dns.TypeNS), question("none.hf.example.", dns.TypeANY),
		new(dns.Msg).SetUpdate("hf.example."), new(dns.Msg).SetAxfr("hf.example."), question("x.hf.example.", dns.TypeA).SetEdns0(4096, true)} {
		p, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	f.Add([]byte{0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63, 'x'})
	z := exampleZone(f)
	a, err := newAnswerer(Config{NameServers: []string{"ns1.hf.example"}}, z.Origin(), notCut)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		req := new(dns.Msg)
		if err := req.Unpack(p); err != nil {
			return
		}
		for _, tcp := range []bool{false, true} {
			m := a.reply(z, req, tcp)
			if !m.Response || m.Id != req.Id || m.RecursionAvailable {
				t.Fatalf("no reply to its question:\n%v\n%v", req, m)
			}
			out, err := m.Pack()
			if err != nil {
				t.Fatalf("cannot be sent: %v\n%v", err, m)
			}
			if !tcp && len(out) > udpSize {
				t.Fatalf("%d bytes over UDP", len(out))
			}
		}
	})
}
