package witness_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

// authority signs the certificates of one cluster.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) authority {
	t.Helper()
	a := authority{key: newKey(t)}
	a.cert = sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, a.key, a.key)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, c, parent *x509.Certificate, key, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore = serial, time.Now().Add(-time.Hour)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	out, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (a authority) issue(t testing.TB, name string, usage x509.ExtKeyUsage) tls.Certificate {
	t.Helper()
	key := newKey(t)
	leaf := sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{usage}}, a.cert, key, a.key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// house is a witness with its clusters.
type house struct {
	t    testing.TB
	cfg  witness.Config
	own  authority
	cas  map[string]authority
	addr string
	ca   string // file
	log  *logged
	stop func()
}

// logged keeps the log's text.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newHouse starts a witness for some clusters, with quotas that nothing here reaches but what change sets.
func newHouse(t testing.TB, clusters []string, change func(cluster string, q *witness.Quota)) *house {
	t.Helper()
	h := &house{t: t, own: newAuthority(t, "witness"), cas: map[string]authority{}, log: &logged{}}
	h.cfg = witness.Config{Dir: t.TempDir(), MirrorDir: t.TempDir(), Certificate: h.own.issue(t, "witness", x509.ExtKeyUsageServerAuth)}
	for _, name := range clusters {
		q := witness.Quota{Groups: 100, Votes: 1e6, Bytes: 1 << 30, Connections: 50}
		if change != nil {
			change(name, &q)
		}
		h.cas[name] = newAuthority(t, "CA of "+name)
		h.cfg.Clusters = append(h.cfg.Clusters, witness.Cluster{Name: name, CA: h.cas[name].pem(), Quota: q})
	}
	h.ca = filepath.Join(t.TempDir(), "witness.pem")
	if err := os.WriteFile(h.ca, h.own.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	return h
}

func (h *house) start() {
	h.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	h.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(h.t.Context()))
	ended := make(chan error, 1)
	go func() {
		ended <- witness.Run(ctx, h.cfg, witness.Deps{Listener: ln, BootID: "boot", Logger: slog.New(slog.NewTextHandler(h.log, nil))})
	}()
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				h.t.Errorf("witness: %v", err)
			}
		})
	}
	h.t.Cleanup(h.stop)
}

// client is a site's quorum service.
func (h *house) client(cluster, site string) *witness.Client {
	h.t.Helper()
	return h.with(h.cas[cluster].issue(h.t, site+".quorum", x509.ExtKeyUsageClientAuth), 0)
}

func (h *house) with(cert tls.Certificate, window time.Duration) *witness.Client {
	h.t.Helper()
	c, err := witness.NewClient(h.t.Context(), witness.At{URL: "https://" + h.addr, CA: h.ca}, func() (tls.Certificate, error) { return cert, nil }, time.Minute, window)
	if err != nil {
		h.t.Fatal(err)
	}
	return c
}

// ballot is a request of a site in the n-th epoch.
func ballot(cluster, group string, verb core.Verb, from domain.SiteID, n int, seq uint64) witness.Ballot {
	e := domain.NewEpoch(0, n, int(from[0]-'a')+1)
	return witness.Ballot{Cluster: cluster, Group: domain.GroupID(group), Request: core.Request{Verb: verb, From: from, Epoch: e, Seq: seq, G: time.Minute,
		Reg: &core.Register{WE: e, Seq: seq, InSync: []domain.SiteID{from}, Config: core.Config{Version: 1, Weights: core.Weights{"witness": 1}}}}}
}

func ask(t testing.TB, c *witness.Client, b witness.Ballot, want core.Verdict) core.Response {
	t.Helper()
	r, err := c.Ask(t.Context(), b)
	if err != nil || r.Verdict != want || r.Voter != witness.Voter {
		t.Fatalf("%s of %s for %s of %s: %+v, %v; want %s", b.Verb, b.From, b.Group, b.Cluster, r, err, want)
	}
	return r
}
