//go:build e2e

package serve

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/replicator/nbd"
)

// nbdDoors starts a volume behind each kind of address.
func nbdDoors(t *testing.T, durability string) map[string]string {
	dir := t.TempDir()
	tcp, _ := startNBD(t, Options{File: filepath.Join(dir, "tcp.img"), Size: "64MiB", Listen: "127.0.0.1:0", Durability: durability, NBD: NBD{Listen: "127.0.0.1:0"}})
	unix, _ := startNBD(t, Options{File: filepath.Join(dir, "unix.img"), Size: "64MiB", Listen: "127.0.0.1:0", Durability: durability, NBD: NBD{Listen: "unix:" + filepath.Join(dir, "s")}})
	return map[string]string{"tcp": tcp, "unix": unix}
}

var nbdSteps = []string{"write -P 0xaa 0 1M", "write -P 0x55 1M 48M", "write -z 64k 128k", "write -z -u 256k 64k", "discard 512k 256k", "flush", "writev -P 0x11 4096 512 1024 2048",
	"read -P 0xaa 0 4k", "read -P 0x11 4096 3584", "read -P 0 64k 128k", "read -P 0 256k 64k", "read -P 0 512k 256k", "read -P 0xaa 768k 256k", "read -P 0x55 1M 48M", "write -f -P 1 63M 1M", "read -P 1 63M 1M"}

func qemuIO(t *testing.T, args ...string) string {
	t.Helper()
	for _, s := range nbdSteps {
		args = append(args, "-c", s)
	}
	out := succeed(t, "qemu-io", args...)
	if strings.Contains(out, "verification failed") || strings.Contains(out, "rror") {
		t.Errorf("qemu-io %v:\n%s", args, out)
	}
	return out
}

func TestQEMUReadsBackWhatItWroteByNBD(t *testing.T) {
	need(t, "qemu-io", "qemu-img", "qemu-nbd")
	for _, durability := range []string{"cached", "strict"} {
		for door, uri := range nbdDoors(t, durability) {
			t.Run(durability+" "+door, func(t *testing.T) {
				qemuIO(t, "-t", "none", "-f", "raw", uri)
				var all []struct {
					Start, Length int64
					Zero, Data    bool
				}
				if err := json.Unmarshal([]byte(succeed(t, "qemu-img", "map", "--output=json", "-f", "raw", uri)), &all); err != nil {
					t.Fatal(err)
				}
				holes := int64(0)
				for _, e := range all {
					if e.Zero && !e.Data {
						holes += e.Length
					}
				}
				if holes < 256<<10+14<<20 {
					t.Errorf("map shows %d bytes of holes: %+v", holes, all)
				}
				for _, a := range [][]string{{"-w", "-c", "5000", "-d", "32", "-s", "4096"}, {"-c", "5000", "-d", "32", "-s", "4096"},
					{"-w", "-c", "500", "-d", "1", "-s", "4096", "--flush-interval=10", "--no-drain"}, {"-w", "-c", "60", "-d", "8", "-s", "1048576"}} {
					succeed(t, "qemu-img", append(append([]string{"bench", "-t", "none", "-f", "raw"}, a...), uri)...)
				}
				copied := filepath.Join(t.TempDir(), "copy.img")
				succeed(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", uri, "--target-is-zero", sparse(t, copied, 64<<20))
				succeed(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, copied)
				succeed(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", copied, uri)
				succeed(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, copied)
				where := []string{"-L", "-k", query(t, uri, "socket")}
				if door == "tcp" {
					u, _ := url.Parse(uri)
					where = []string{"-L", "-b", u.Hostname(), "-p", u.Port()}
				}
				if out := succeed(t, "qemu-nbd", where...); !strings.Contains(out, "exports available: 1") || !strings.Contains(out, "base:allocation") || !strings.Contains(out, "multi") {
					t.Errorf("qemu-nbd -L printed:\n%s", out)
				}
			})
		}
	}
}

func sparse(t *testing.T, path string, size int64) string {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func query(t *testing.T, uri, key string) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get(key)
}

func TestLibnbdToolsByNBD(t *testing.T) {
	need(t, "nbdinfo", "nbdcopy", "qemu-io", "qemu-img")
	for door, uri := range nbdDoors(t, "cached") {
		t.Run(door, func(t *testing.T) {
			qemuIO(t, "-t", "none", "-f", "raw", uri)
			out := succeed(t, "nbdinfo", uri)
			for _, want := range []string{"newstyle-fixed", "structured packets", "export-size: 67108864", "can_multi_conn: true", "can_fua: true", "can_flush: true", "can_trim: true",
				"can_zero: true", "can_df: true", "can_cache: true", "base:allocation", "block_size_minimum: 512"} {
				if !strings.Contains(out, want) {
					t.Errorf("nbdinfo does not say %q:\n%s", want, out)
				}
			}
			if out := succeed(t, "nbdinfo", "--list", uri); !strings.Contains(out, "export=\""+door+".img\"") {
				t.Errorf("nbdinfo --list printed:\n%s", out)
			}
			if out := succeed(t, "nbdinfo", "--map", uri); !strings.Contains(out, "hole,zero") || !strings.Contains(out, "data") {
				t.Errorf("nbdinfo --map printed:\n%s", out)
			}
			// nbdcopy uses four connections at once where it may.
			copied := sparse(t, filepath.Join(t.TempDir(), "copy.img"), 64<<20)
			succeed(t, "nbdcopy", uri, copied)
			succeed(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, copied)
			other, _ := startNBD(t, Options{File: filepath.Join(t.TempDir(), "o.img"), Size: "64MiB", Listen: "127.0.0.1:0", NBD: NBD{Listen: "127.0.0.1:0"}})
			succeed(t, "nbdcopy", "--flush", uri, other)
			succeed(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, other)
		})
	}
}

// pki writes a CA, and a server's and a client's certificate of it, under the names QEMU and libnbd look for.
func pki(t *testing.T, dir string) {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	write := func(name, typ string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sign := func(name string, tmpl *x509.Certificate, key *ecdsa.PrivateKey) {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, &key.PublicKey, caKey)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"-cert.pem", "CERTIFICATE", der)
		pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+"-key.pem", "PRIVATE KEY", pkcs8)
	}
	sign("ca", ca, caKey)
	for i, name := range []string{"server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		sign(name, &x509.Certificate{SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: name}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}, key)
	}
}

func TestQEMUAndLibnbdByTLS(t *testing.T) {
	need(t, "qemu-io", "nbdinfo", "nbdcopy")
	ours, strangers := t.TempDir(), t.TempDir()
	pki(t, ours)
	pki(t, strangers)
	files := nbd.TLSFiles{Cert: filepath.Join(ours, "server-cert.pem"), Key: filepath.Join(ours, "server-key.pem"), CA: filepath.Join(ours, "ca-cert.pem")}
	uri, _ := startNBD(t, Options{File: filepath.Join(t.TempDir(), "v.img"), Size: "64MiB", Listen: "127.0.0.1:0", NBD: NBD{Listen: "127.0.0.1:0", TLS: files}})
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "nbds" {
		t.Fatalf("URI %s: %v", uri, err)
	}
	image := fmt.Sprintf("driver=nbd,host=127.0.0.1,port=%s,export=v.img,tls-creds=tls0", u.Port())
	creds := func(dir string) []string {
		return []string{"--object", "tls-creds-x509,id=tls0,endpoint=client,dir=" + dir, "--image-opts", "-t", "none", image}
	}
	qemuIO(t, creds(ours)...)
	if out, err := tool(t, "qemu-io", append(creds(strangers), "-c", "read 0 512")...); err == nil && strings.Contains(out, "read 512/512") {
		t.Errorf("a stranger read:\n%s", out)
	}
	if out, err := tool(t, "qemu-io", "-f", "raw", "-c", "read 0 512", "nbd://127.0.0.1:"+u.Port()+"/v.img"); err == nil && strings.Contains(out, "read 512/512") {
		t.Errorf("read without TLS:\n%s", out)
	}
	with := uri + "?tls-certificates=" + ours
	if out := succeed(t, "nbdinfo", with); !strings.Contains(out, "with TLS") {
		t.Errorf("nbdinfo printed:\n%s", out)
	}
	copied := sparse(t, filepath.Join(t.TempDir(), "copy.img"), 64<<20)
	succeed(t, "nbdcopy", with, copied)
	b, err := os.ReadFile(copied)
	if err != nil || b[0] != 0xaa || b[63<<20] != 1 {
		t.Errorf("nbdcopy copied something else: %v", err)
	}
}
