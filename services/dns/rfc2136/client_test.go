package rfc2136

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

const testSecret = "bWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsgaW4gdGg="

func TestBadConfigurationNamesTheField(t *testing.T) {
	good := Config{Server: "127.0.0.1:53", Zone: "corp.example", Key: Key{Name: "k", Secret: testSecret}}
	for _, tc := range []struct {
		name  string
		spoil func(*Config)
		says  string
	}{
		{"no port", func(c *Config) { c.Server = "127.0.0.1" }, "host:port"},
		{"no zone", func(c *Config) { c.Zone = "" }, "zone"},
		{"no key", func(c *Config) { c.Key.Name = "" }, "TSIG key"},
		{"md5", func(c *Config) { c.Key.Algorithm = "hmac-md5" }, "hmac-sha256"},
		{"no base64", func(c *Config) { c.Key.Secret = "!" }, "base64"},
		{"no secret", func(c *Config) { c.Key.Secret = "" }, "base64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := good
			tc.spoil(&cfg)
			if _, err := New(cfg); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("error %v", err)
			}
		})
	}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	if s := fmt.Sprintf("%v %+v %#v", good, good, good.Key); strings.Contains(s, testSecret) {
		t.Errorf("the secret is printed: %s", s)
	}
}

func TestReadKeyTakesWhatTsigKeygenWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("key \"holdfast\" {\n\talgorithm hmac-sha256;\n\tsecret \"" + testSecret + "\";\n};\n")
	if k, err := ReadKey(path); err != nil || k != (Key{Name: "holdfast", Algorithm: "hmac-sha256", Secret: testSecret}) {
		t.Fatalf("%v, %v", k, err)
	}
	write("secret")
	if _, err := ReadKey(path); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), path) {
		t.Fatalf("error %v", err)
	}
}

// fake is a server that says what a test tells it to.
func fake(t *testing.T, h dns.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started, done := make(chan struct{}), make(chan struct{})
	srv := &dns.Server{Listener: l, Handler: h, TsigSecret: map[string]string{"k.": testSecret}, NotifyStartedFunc: func() { close(started) },
		MsgAcceptFunc: func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }}
	go func() {
		defer close(done)
		_ = srv.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		_ = srv.Shutdown()
		<-done
	})
	return l.Addr().String()
}

func TestEachAnswerOfAServerHasItsError(t *testing.T) {
	ch := zone.Change{Name: "erp.corp.example.", Type: zone.A, Old: "10.0.0.1", New: "10.1.0.1", Group: "erp", Epoch: domain.NewEpoch(0, 1, 1)}
	for _, tc := range []struct {
		name          string
		query, update int  // rcodes
		notAA         bool // the answer to the query
		want          error
		says          string
	}{
		{"SERVFAIL to a query", dns.RcodeServerFailure, 0, false, domain.ErrUnavailable, "SERVFAIL"},
		{"REFUSED to a query", dns.RcodeRefused, 0, false, domain.ErrRefused, "allow-query"},
		{"no authority", 0, 0, true, domain.ErrRefused, "primary"},
		{"SERVFAIL to the update", 0, dns.RcodeServerFailure, false, domain.ErrUnavailable, "SERVFAIL"},
		{"NOTAUTH", 0, dns.RcodeNotAuth, false, domain.ErrRefused, "not the primary"},
		{"NOTIMP", 0, dns.RcodeNotImplemented, false, domain.ErrRefused, "dynamic updates"},
		{"a condition that never holds", 0, dns.RcodeNXRrset, false, domain.ErrConflict, "other movers"},
		{"taken, but not seen", 0, 0, false, domain.ErrUnavailable, "still answers 10.0.0.1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var updates atomic.Int32
			addr := fake(t, func(w dns.ResponseWriter, req *dns.Msg) {
				m := new(dns.Msg).SetReply(req)
				if req.Opcode == dns.OpcodeUpdate {
					updates.Add(1)
					if w.TsigStatus() != nil || len(req.Answer) == 0 {
						t.Errorf("an update without a good signature or without a condition: %v", req)
					}
					m.Rcode = tc.update
					m.SetTsig("k.", dns.HmacSHA256, 300, time.Now().Unix())
				} else {
					m.Rcode, m.Authoritative = tc.query, !tc.notAA
					m.Answer = []dns.RR{addressRR(req.Question[0].Name, zone.A, "10.0.0.1", 5)}
				}
				_ = w.WriteMsg(m)
			})
			c, err := New(Config{Server: addr, Zone: "corp.example", Key: Key{Name: "k", Secret: testSecret}, Timeout: 400 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Change(t.Context(), ch)
			if !errors.Is(err, tc.want) || domain.Code(err) != domain.Code(tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("error %v, want %v saying %q", err, tc.want, tc.says)
			}
			if n := updates.Load(); n > attempts {
				t.Errorf("%d updates", n)
			}
		})
	}
}

func TestNobodyListeningIsUnavailable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	c, err := New(Config{Server: addr, Zone: "corp.example", Key: Key{Name: "k", Secret: testSecret}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lookup(t.Context(), "erp.corp.example", zone.A); !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), addr) {
		t.Fatalf("error %v", err)
	}
}
