package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"
	"syscall"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const unixPrefix = "unix:"

// Listen opens addr: host:port, where port 0 takes a free one, or unix:PATH, a socket that only its owner may use. The socket
// of a process that is gone is replaced. Bad addresses are domain.ErrInvalid.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	path, local := strings.CutPrefix(addr, unixPrefix)
	if local {
		return listenUnix(ctx, path)
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return nil, fmt.Errorf("NBD listen address %q: write host:port, as in 127.0.0.1:10809, or unix:PATH: %w", addr, domain.ErrInvalid)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: another program has this port; stop it or give another address: %w", addr, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return ln, nil
}

func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	if path == "" {
		return nil, fmt.Errorf("NBD listen address %q: name the socket's file: %w", unixPrefix, domain.ErrInvalid)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(ctx, path) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listen on %s: remove the socket that was left: %w", path, err)
		}
		ln, err = lc.Listen(ctx, "unix", path)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listen on %s: the file is there and in use; stop its program or name another file: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), ln.Close())
	}
	return ln, nil
}

// abandoned reports whether path is a socket that nobody listens on.
func abandoned(ctx context.Context, path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", path)
	if err == nil {
		_ = nc.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// Local reports whether only this machine reaches a.
func Local(a net.Addr) bool {
	switch a := a.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

// URI is how clients name an export at a, which is host:port (or a path where unix is set).
func URI(a string, unix, secure bool, export string) string {
	u := url.URL{Scheme: "nbd", Host: a, Path: "/" + export}
	if secure {
		u.Scheme = "nbds"
	}
	if unix {
		u.Scheme, u.Host, u.RawQuery = u.Scheme+"+unix", "", "socket="+url.QueryEscape(a)
		return u.Scheme + "://" + u.EscapedPath() + "?" + u.RawQuery
	}
	return u.String()
}
