package nbd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.key, a.cert = a.issue("ca", nil, nil)
	return a
}

// issue writes NAME.pem and NAME.key, signed by parent, or by itself.
func (a *authority) issue(name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true}
	if parent == nil {
		parent, parentKey = tmpl, key
		tmpl.IsCA, tmpl.KeyUsage = true, x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, parentKey)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", "CERTIFICATE", der)
	a.write(name+".key", "PRIVATE KEY", pkcs8)
	return key, cert
}

func (a *authority) write(name, typ string, der []byte) {
	if err := os.WriteFile(a.file(name), pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func (a *authority) files(name string) TLSFiles {
	a.issue(name, a.cert, a.key)
	return TLSFiles{Cert: a.file(name + ".pem"), Key: a.file(name + ".key"), CA: a.file("ca.pem")}
}

// client is what a client of the authority uses; name "" has no certificate.
func (a *authority) client(name string) *tls.Config {
	out := &tls.Config{ServerName: "127.0.0.1", RootCAs: x509.NewCertPool()}
	out.RootCAs.AddCert(a.cert)
	if name == "" {
		return out
	}
	f := a.files(name)
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		a.t.Fatal(err)
	}
	out.Certificates = []tls.Certificate{pair}
	return out
}

func (a *authority) server(name string) *tls.Config {
	a.t.Helper()
	cfg, err := LoadTLS(a.files(name))
	if err != nil {
		a.t.Fatal(err)
	}
	return cfg
}

// startTLS goes on under TLS.
func (c *client) startTLS(cfg *tls.Config) error {
	c.t.Helper()
	if _, last := c.option(optStartTLS, ""); last != repAck {
		c.t.Fatalf("STARTTLS: %#x", last)
	}
	tc := tls.Client(c.nc, cfg)
	if err := tc.Handshake(); err != nil {
		return err
	}
	c.use(tc)
	return nil
}

func TestTLSRequiredOrOptional(t *testing.T) {
	a := newAuthority(t)
	for _, required := range []bool{false, true} {
		b := newBench(t, Config{TLS: a.server("server"), RequireTLS: required})
		c := b.dial()
		c.put(uint32(3))
		want := uint32(repAck)
		if required {
			want = repErrTLSReqd
		}
		for _, opt := range []uint32{optList, optStructuredReply} {
			if _, last := c.option(opt, ""); last != want {
				t.Errorf("required %v: option %d: %#x", required, opt, last)
			}
		}
		if err := c.startTLS(a.client("vm1")); err != nil {
			t.Fatal(err)
		}
		// What was said in the clear is forgotten.
		if _, last := c.option(optSetMetaContext, contextData(testExport, contextAllocation)); last != repErrInvalid {
			t.Errorf("structured replies outlived STARTTLS: %#x", last)
		}
		if _, last := c.option(optStartTLS, ""); last != repErrInvalid {
			t.Errorf("STARTTLS twice: %#x", last)
		}
		c.open(true)
		for _, n := range []int{512, 8192, 300 << 10} {
			c.do(cmdWrite, 0, 0, uint32(n), pattern(5, n)).want(t, 0)
			if got := c.do(cmdRead, 0, 0, uint32(n), nil).want(t, 0); string(got.data) != string(pattern(5, n)) {
				t.Error("read something else")
			}
		}
		c.ask(cmdDisc, 0, 0, 0, nil)
		c.gone()
		old := b.dial()
		old.put(uint32(3), uint64(magicOption), uint32(optExportName), uint32(len(testExport)), testExport)
		if required {
			if n := old.gone(); n != 0 {
				t.Error("opened without TLS")
			}
			continue
		}
		old.take(10)
	}
}

func TestOnlyClientsOfTheAuthorityGetIn(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	b := newBench(t, Config{TLS: a.server("server"), RequireTLS: true})
	strangers := other.client("vm1")
	strangers.RootCAs = a.client("").RootCAs
	for name, c := range map[string]struct {
		cfg *tls.Config
		ok  bool
	}{"with its certificate": {a.client("vm1"), true}, "without": {a.client(""), false}, "with another authority's": {strangers, false}} {
		cl := b.dial()
		cl.put(uint32(3))
		err := cl.startTLS(c.cfg)
		if err == nil && !c.ok { // under TLS 1.3 a client hears of it with the first answer
			_, err = cl.nc.Write([]byte("x"))
			if err == nil {
				_, err = cl.nc.Read(make([]byte, 1))
			}
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWhatIsSentInTheClearBehindSTARTTLSEndsTheConnection is the attack that put commands before the encrypted stream of so
// many protocols.
func TestWhatIsSentInTheClearBehindSTARTTLSEndsTheConnection(t *testing.T) {
	b := newBench(t, Config{TLS: newAuthority(t).server("server")})
	c := b.dial()
	c.put(uint32(3), uint64(magicOption), uint32(optStartTLS), uint32(0), uint64(magicOption), uint32(optList), uint32(0))
	if n := c.gone(); n != 0 {
		t.Errorf("%d bytes answer", n)
	}
}

func TestARenewedCertificateNeedsNoRestart(t *testing.T) {
	a := newAuthority(t)
	b := newBench(t, Config{TLS: a.server("server")})
	serial := func() string {
		c := b.dial()
		c.put(uint32(3))
		if err := c.startTLS(a.client("vm1")); err != nil {
			t.Fatal(err)
		}
		return c.nc.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	a.files("server")
	if serial() == before {
		t.Error("the old certificate is still shown")
	}
}

func TestTLSFilesAreCheckedAndNamed(t *testing.T) {
	a := newAuthority(t)
	good := a.files("server")
	open := a.file("open.key")
	b, err := os.ReadFile(good.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(open, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for says, f := range map[string]TLSFiles{
		"chmod 600 " + open: {Cert: good.Cert, Key: open}, "none": {Cert: good.Cert, Key: a.file("none")}, "belong together": {Cert: good.Cert, Key: a.file("ca.key")},
		"clients' authority": {Cert: good.Cert, Key: good.Key, CA: good.Key}, "nowhere.pem": {Cert: good.Cert, Key: good.Key, CA: a.file("nowhere.pem")},
	} {
		if _, err := LoadTLS(f); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want one that says %q", err, says)
		}
	}
}
