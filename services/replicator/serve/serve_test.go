package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// start runs a volume until the test ends, or stop is called, and returns its URL.
func start(t *testing.T, o Options) (url string, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := Run(ctx, o, in, io.Discard)
		_ = in.CloseWithError(err)
		ended <- err
	}()
	line := make([]byte, 4096)
	n, err := out.Read(line)
	if err != nil {
		cancel()
		t.Fatalf("serve: %v", err)
	}
	stop = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return strings.TrimSpace(string(line[:n])), stop
}

func TestServeCreatesTheVolumeAndEndsCleanly(t *testing.T) {
	file := filepath.Join(t.TempDir(), "My Disk.img")
	url, stop := start(t, Options{File: file, Size: "8MiB", Listen: "127.0.0.1:0"})
	if !strings.HasPrefix(url, "iscsi://127.0.0.1:") || !strings.HasSuffix(url, "/iqn.2026-11.dev.holdfast:my-disk.img/0") {
		t.Errorf("URL %s", url)
	}
	nc, err := net.Dial("tcp", strings.Split(url, "/")[2])
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("the connection is still open")
	}
	if info, err := os.Stat(file); err != nil || info.Size() != 8<<20 {
		t.Fatalf("%v %v", info, err)
	}
	again, _ := start(t, Options{File: file, Listen: "127.0.0.1:0", Durability: "strict"}) // the size is the file's
	if again == "" {
		t.Fatal("no URL")
	}
}

func TestServeRefusesClearly(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	open, short, good := write("open", "a long enough secret", 0o644), write("short", "short\n", 0o600), write("good", "a long enough secret\n", 0o600)
	small := write("small.img", "x", 0o600)
	fresh := filepath.Join(dir, "fresh.img")
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for name, c := range map[string]struct {
		o    Options
		want error
		says string
	}{
		"no file":           {Options{Size: "1MiB", Listen: "127.0.0.1:0"}, domain.ErrInvalid, "no file"},
		"no size":           {Options{File: fresh, Listen: "127.0.0.1:0"}, domain.ErrInvalid, "--size"},
		"bad size":          {Options{File: fresh, Size: "12", Listen: "127.0.0.1:0"}, domain.ErrInvalid, "1GiB"},
		"odd size":          {Options{File: fresh, Size: "1000B", Listen: "127.0.0.1:0"}, domain.ErrInvalid, "512"},
		"wrong size":        {Options{File: small, Size: "1MiB", Listen: "127.0.0.1:0"}, domain.ErrInvalid, small},
		"directory":         {Options{File: dir, Size: "1MiB", Listen: "127.0.0.1:0"}, domain.ErrInvalid, dir},
		"durability":        {Options{File: small, Size: "1MiB", Listen: "127.0.0.1:0", Durability: "fast"}, domain.ErrInvalid, "cached"},
		"address":           {Options{File: fresh, Size: "1MiB", Listen: "3260"}, domain.ErrInvalid, "host:port"},
		"port in use":       {Options{File: fresh, Size: "1MiB", Listen: busy.Addr().String()}, syscall.EADDRINUSE, busy.Addr().String()},
		"readable secret":   {Options{File: fresh, Size: "1MiB", Listen: "127.0.0.1:0", CHAP: "u:" + open}, domain.ErrInvalid, "chmod 600"},
		"short secret":      {Options{File: fresh, Size: "1MiB", Listen: "127.0.0.1:0", CHAP: "u:" + short}, domain.ErrInvalid, "at least 12"},
		"missing secret":    {Options{File: fresh, Size: "1MiB", Listen: "127.0.0.1:0", CHAP: "u:" + dir + "/none"}, domain.ErrInvalid, "none"},
		"chap without user": {Options{File: fresh, Size: "1MiB", Listen: "127.0.0.1:0", CHAP: good}, domain.ErrInvalid, "USER:FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := Run(t.Context(), c.o, &out, io.Discard)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || out.Len() > 0 {
				t.Errorf("%v, printed %q", err, out.String())
			}
		})
	}
	if _, err := os.Stat(fresh); err == nil {
		t.Error("a refused start left a file behind")
	}
}

func TestReservationsThatCannotBeReadKeepTheVolumeFromBeingServed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "v.img")
	_, stop := start(t, Options{File: file, Size: "8MiB", Listen: "127.0.0.1:0"})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	kept := file + ".reservations"
	if err := os.WriteFile(kept, []byte("not a record"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := Run(t.Context(), Options{File: file, Listen: "127.0.0.1:0"}, io.Discard, io.Discard)
	if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), kept) {
		t.Fatalf("served with %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	start(t, Options{File: file, Size: "8MiB", Listen: "127.0.0.1:0"}) // a new volume: the old one's reservations are no one's
}
