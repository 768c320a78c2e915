package pool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/accept"
)

const (
	socketName = "control.sock"
	// maxRequest bounds what is read of a request; readWithin how long it may take to come.
	maxRequest = 64 << 10
	readWithin = 10 * time.Second
)

// answer is what goes back over the socket: one JSON object for one request, then the end.
type answer struct {
	Reply Reply  `json:"reply"`
	Error string `json:"error,omitempty"`
	Code  string `json:"code,omitempty"` // domain.Code
}

// remoteError keeps the server's words and the sentinel they stood for.
type remoteError struct {
	words string
	is    error
}

func (e *remoteError) Error() string { return e.words }
func (e *remoteError) Unwrap() error { return e.is }

// Call carries out a request in the pool of a folder: by the process that serves it, or else by itself, holding the pool's
// lock. create makes the pool when it is not there.
func Call(ctx context.Context, dir string, create bool, r Request) (Reply, error) {
	reply, err := ask(ctx, dir, r)
	if !errors.Is(err, errNotServed) {
		return reply, err
	}
	p, err := Open(dir, Options{Create: create})
	if errors.Is(err, domain.ErrConflict) { // it may have begun to be served just now
		if reply, again := ask(ctx, dir, r); !errors.Is(again, errNotServed) {
			return reply, again
		}
	}
	if err != nil {
		return Reply{}, err
	}
	reply, err = p.Do(ctx, r)
	return reply, errors.Join(err, p.Close())
}

var errNotServed = errors.New("nothing serves the pool")

// inFolder calls f with a short path of the socket, whatever the length of the folder's: a socket's path is bounded.
func inFolder(dir string, f func(path string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // only read
	return f(filepath.Join("/proc/self/fd", fmt.Sprint(d.Fd()), socketName))
}

func ask(ctx context.Context, dir string, r Request) (Reply, error) {
	var conn net.Conn
	err := inFolder(dir, func(path string) (err error) {
		var d net.Dialer
		conn, err = d.DialContext(ctx, "unix", path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return Reply{}, errNotServed
	}
	if err != nil {
		return Reply{}, fmt.Errorf("reach the server of pool %s: %w", dir, err)
	}
	defer conn.Close()                                          //nolint:errcheck // the answer is what counts
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // the server stops what it does for us
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return Reply{}, fmt.Errorf("ask the server of pool %s: %w", dir, err)
	}
	var a answer
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return Reply{}, errors.Join(ctx.Err(), fmt.Errorf("the server of pool %s did not answer: %w; see its log", dir, domain.ErrUnavailable))
	}
	if a.Error != "" {
		return a.Reply, &remoteError{words: a.Error, is: domain.FromCode(a.Code)}
	}
	return a.Reply, nil
}

// ServeControl answers the commands' requests on the pool's socket until ctx ends. ready is called once it listens.
func (p *Pool) ServeControl(ctx context.Context, ready func()) error {
	var ln net.Listener
	err := inFolder(p.dir, func(path string) (err error) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a server that was killed: we hold the lock
			return err
		}
		var lc net.ListenConfig
		if ln, err = lc.Listen(ctx, "unix", path); err != nil {
			return err
		}
		ln.(*net.UnixListener).SetUnlinkOnClose(false) // its path goes through a descriptor that is closed by then
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		return fmt.Errorf("listen for commands in pool %s: %w", p.dir, err)
	}
	ready()
	defer os.Remove(p.path(socketName)) //nolint:errcheck // a socket that nobody serves is tolerated
	return accept.Loop(ctx, ln, p.log.With("pool", p.dir), p.answer)
}

// answer carries out one request; it stops when its asker goes.
func (p *Pool) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close() //nolint:errcheck // all was said
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetReadDeadline(time.Now().Add(readWithin))
	line, err := readLine(conn)
	if err != nil {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	go func() {
		_, _ = conn.Read(make([]byte, 1)) // the asker's end, or ours
		cancel()
	}()
	var r Request
	var a answer
	if err = strictly(line, &r); err != nil {
		err = fmt.Errorf("read the request: %w: %w; is the command of another version than the server?", domain.ErrInvalid, err)
	} else {
		a.Reply, err = p.Do(ctx, r)
	}
	if err != nil {
		a.Error, a.Code = err.Error(), domain.Code(err)
	}
	_ = conn.SetWriteDeadline(time.Now().Add(readWithin))
	_ = json.NewEncoder(conn).Encode(a)
}

// readLine reads up to the end of the line; nothing follows it.
func readLine(conn net.Conn) ([]byte, error) {
	var line []byte
	buf := make([]byte, 4096)
	for len(line) < maxRequest {
		n, err := conn.Read(buf)
		line = append(line, buf[:n]...)
		if n > 0 && line[len(line)-1] == '\n' {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the request is too long")
}
