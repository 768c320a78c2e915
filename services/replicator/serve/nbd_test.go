package serve

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/nbd"
)

// startNBD is start with the second line, the NBD URI.
func startNBD(t *testing.T, o Options) (uri string, stop func() error) {
	t.Helper()
	urls, stop := start(t, o)
	_, uri, ok := strings.Cut(urls, "\n")
	if !ok {
		t.Fatalf("printed %q", urls)
	}
	return uri, stop
}

// greeted connects and takes the first bytes.
func greeted(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() }) // it may be closed already
	b := make([]byte, 18)
	if _, err := io.ReadFull(nc, b); err != nil || string(b[:8]) != "NBDMAGIC" {
		t.Fatalf("greeting %q: %v", b, err)
	}
	return nc
}

func TestNBDIsASecondDoorAndEndsCleanly(t *testing.T) {
	dir := t.TempDir()
	uri, stop := startNBD(t, Options{File: filepath.Join(dir, "my disk.img"), Size: "8MiB", Listen: "127.0.0.1:0", NBD: NBD{Listen: "127.0.0.1:0"}})
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "nbd" || u.Path != "/my disk.img" {
		t.Fatalf("URI %s: %v", uri, err)
	}
	nc := greeted(t, "tcp", u.Host)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("the connection is still open")
	}
}

func TestNBDOnASocketOnlyItsOwnerMayUse(t *testing.T) {
	dir := t.TempDir()
	sock := filepath.Join(dir, "nbd.sock")
	o := Options{File: filepath.Join(dir, "v.img"), Size: "8MiB", Listen: "127.0.0.1:0", NBD: NBD{Listen: "unix:" + sock}}
	// A process that was killed leaves its socket behind.
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	if err := left.Close(); err != nil {
		t.Fatal(err)
	}
	uri, stop := startNBD(t, o)
	if u, err := url.Parse(uri); err != nil || u.Scheme != "nbd+unix" || u.Path != "/v.img" || u.Query().Get("socket") != sock {
		t.Errorf("URI %s: %v", uri, err)
	}
	greeted(t, "unix", sock)
	if info, err := os.Stat(sock); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	var out bytes.Buffer
	if err := Run(t.Context(), Options{File: filepath.Join(dir, "w.img"), Size: "8MiB", Listen: "127.0.0.1:0", NBD: o.NBD}, &out, io.Discard); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a socket in use was taken: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(sock); err == nil {
		t.Error("the socket is still there")
	}
}

func TestNBDRefusesClearly(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		nbd  NBD
		says string
	}{
		"other machines":              {NBD{Listen: "0.0.0.0:0"}, "--nbd-insecure"},
		"all addresses":               {NBD{Listen: ":0"}, "--nbd-tls-ca"},
		"options without an address":  {NBD{Insecure: true}, "--nbd ADDR"},
		"a certificate without a key": {NBD{Listen: "127.0.0.1:0", TLS: nbd.TLSFiles{Cert: "x"}}, "--nbd-tls-key"},
		"an authority alone":          {NBD{Listen: "127.0.0.1:0", TLS: nbd.TLSFiles{CA: "x"}}, "--nbd-tls-cert"},
		"files that are not there":    {NBD{Listen: "127.0.0.1:0", TLS: nbd.TLSFiles{Cert: dir + "/c", Key: dir + "/k"}}, dir + "/k"},
		"no port":                     {NBD{Listen: "10809"}, "host:port"},
		"no path":                     {NBD{Listen: "unix:"}, "name the socket"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := Run(t.Context(), Options{File: filepath.Join(dir, "v.img"), Size: "1MiB", Listen: "127.0.0.1:0", NBD: c.nbd}, &out, io.Discard)
			if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), c.says) || out.Len() > 0 {
				t.Errorf("%v, printed %q", err, out.String())
			}
		})
	}
	uri, _ := startNBD(t, Options{File: filepath.Join(dir, "v.img"), Size: "1MiB", Listen: "127.0.0.1:0", NBD: NBD{Listen: "0.0.0.0:0", Insecure: true}})
	if !strings.HasPrefix(uri, "nbd://127.0.0.1:") {
		t.Errorf("URI %s", uri)
	}
}
