package line

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// site is the target's in these tests, other the primary's.
const site, other = domain.SiteID("b"), domain.SiteID("a")

// installation is the secret folders of a secured installation's sites.
type installation map[domain.SiteID]string

// secured founds an installation of two data sites.
func secured(t testing.TB) installation {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	spec := func(id domain.SiteID, index int) identity.Spec {
		return identity.Spec{Cluster: "test", Site: id, Role: domain.SiteData, Index: index, Addresses: []string{"127.0.0.1"}}
	}
	in := installation{other: t.TempDir(), site: t.TempDir()}
	first, err := identity.Found(in[other], spec(other, 1), identity.Options{})
	must(err)
	second, err := identity.NewSite(in[site], spec(site, 2), &first)
	must(err)
	authority, err := identity.OpenAuthority(in[other], identity.Options{})
	must(err)
	inst, err := authority.Admit(second)
	must(err)
	for _, dir := range in {
		must(identity.Install(dir, inst))
	}
	return in
}

func (in installation) creds(t testing.TB, at domain.SiteID, service string) *identity.Credentials {
	t.Helper()
	if in == nil {
		return nil
	}
	c, err := identity.Open(identity.SecretsDir(in[at]), service)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// log keeps what a server says.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.buf.Bytes(), []byte(text))
}

func newLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// server serves on a free port until the test ends, with other time-outs than its own where set.
func server(t testing.TB, creds *identity.Credentials, set ...func(*Server)) (*Server, *log) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serving(t, ln, creds, set...)
}

// serving is server on a listener that is there.
func serving(t testing.TB, ln net.Listener, creds *identity.Credentials, set ...func(*Server)) (*Server, *log) {
	t.Helper()
	l := &log{}
	s := NewServer(ln.Addr().String(), creds, newLogger(l))
	for _, f := range set {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s, l
}

// narrow gives a connection the smallest buffers there are. The kernel's own grow to megabytes before a peer that does not read is felt.
func narrow(t testing.TB, nc net.Conn) {
	t.Helper()
	tcp := nc.(*net.TCPConn)
	if err := errors.Join(tcp.SetReadBuffer(1), tcp.SetWriteBuffer(1)); err != nil {
		t.Error(err)
	}
}

// narrowListener accepts narrow connections.
type narrowListener struct {
	net.Listener
	t testing.TB
}

func (l narrowListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		narrow(l.t, nc)
	}
	return nc, err
}

// dialed is a line that the test's end closes.
func dialed(t testing.TB, o Offer, creds *identity.Credentials, acked func(Ack)) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), site, o, creds, acked)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// both runs a test in plain TCP and in TLS. creds gives a replicator's.
func both(t *testing.T, f func(t *testing.T, creds func(domain.SiteID) *identity.Credentials)) {
	for name, found := range map[string]func() installation{"plain": func() installation { return nil }, "TLS": func() installation { return secured(t) }} {
		t.Run(name, func(t *testing.T) {
			in := found()
			f(t, func(at domain.SiteID) *identity.Credentials { return in.creds(t, at, api.ServiceReplicator) })
		})
	}
}

// within waits for an event that has to come.
func within[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: not within 20 s", what)
	}
	return v
}

// shown is a plain connection that showed a token and was welcomed.
func shown(t testing.TB, o Offer) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", o.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if _, err := nc.Write(putHello(o.Token)); err != nil {
		t.Fatal(err)
	}
	if b := make([]byte, 1); read(t, nc, b) != nil || b[0] != welcome {
		t.Fatalf("answered %d", b[0])
	}
	return nc
}

func read(t testing.TB, nc net.Conn, b []byte) error {
	t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err := io.ReadFull(nc, b)
	return err
}

// hangsUp waits until the other end closes, before it sends anything.
func hangsUp(t testing.TB, nc net.Conn) {
	t.Helper()
	if err := read(t, nc, make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("it did not hang up: %v", err)
	}
}
