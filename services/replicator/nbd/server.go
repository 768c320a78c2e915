package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/services/replicator/accept"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// errProtocol ends a connection whose client broke the protocol.
var errProtocol = errors.New("protocol error")

// Config is what a Server needs. The zero value of each field takes the default in its comment.
type Config struct {
	Log *slog.Logger // discarded
	// TLS is what STARTTLS uses; nil offers none. RequireTLS lets nobody in without.
	TLS        *tls.Config
	RequireTLS bool
	// MaxBufferedBytes bounds the memory of all requests in flight (256 MiB); less than 64 MiB is taken as 64 MiB, since one
	// request may need half of that.
	MaxBufferedBytes int64
	// MaxConnections bounds connections, past their handshake or not (256).
	MaxConnections int
	// QueueDepth is how many requests of one connection may be in flight (128).
	QueueDepth int
	// HandshakeTimeout bounds a handshake (15 s), WriteTimeout an answer the client does not take (30 s), PayloadTimeout the
	// wait for the data of a write that was announced (30 s, and as much again for each 8 MiB).
	HandshakeTimeout, WriteTimeout, PayloadTimeout time.Duration
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MaxBufferedBytes <= 0 {
		c.MaxBufferedBytes = 256 << 20
	}
	c.MaxBufferedBytes = max(c.MaxBufferedBytes, 2*maxPayload)
	if c.MaxConnections <= 0 {
		c.MaxConnections = 256
	}
	if c.QueueDepth <= 0 {
		c.QueueDepth = 128
	}
	def(&c.HandshakeTimeout, 15*time.Second)
	def(&c.WriteTimeout, 30*time.Second)
	def(&c.PayloadTimeout, 30*time.Second)
	return c
}

// Server serves exports to clients. Exports come and go while it runs.
type Server struct {
	cfg    Config
	log    *slog.Logger
	pool   iscsi.Pool
	budget budget
	began  time.Time

	mu      sync.Mutex
	exports map[string]*export
	conns   map[*conn]struct{}
}

// New makes a server without exports.
func New(cfg Config) *Server {
	cfg = cfg.withDefaults()
	return &Server{cfg: cfg, log: cfg.Log, budget: budget{free: cfg.MaxBufferedBytes}, began: time.Now(), exports: map[string]*export{}, conns: map[*conn]struct{}{}}
}

// AddExport starts to serve u under name. A client that names nothing gets the only export there is. It refuses
// (domain.ErrInvalid) a bad name and a unit of no size, and (domain.ErrConflict) a name that is taken.
func (s *Server) AddExport(name string, u target.Unit) error {
	if name == "" || len(name) > maxName || strings.ContainsRune(name, 0) {
		return fmt.Errorf("add export %q: name it with 1 to %d bytes: %w", name, maxName, domain.ErrInvalid)
	}
	if size := u.Info().SizeBytes; size <= 0 || size%target.BlockSize != 0 {
		return fmt.Errorf("add export %s: %d bytes, want a multiple of %d: %w", name, size, target.BlockSize, domain.ErrInvalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exports[name] != nil {
		return fmt.Errorf("add export %s: already served: %w", name, domain.ErrConflict)
	}
	s.exports[name] = newExport(name, u)
	return nil
}

// RemoveExport stops serving name: it drops every connection at once and returns when no further answer can be sent and
// everything in flight in the unit has been settled. It must not be called from a unit's done. Removing what is not there is
// domain.ErrNotFound.
func (s *Server) RemoveExport(name string) error {
	s.mu.Lock()
	e := s.exports[name]
	delete(s.exports, name)
	s.mu.Unlock()
	if e == nil {
		return fmt.Errorf("remove export %s: %w", name, domain.ErrNotFound)
	}
	e.drop()
	return nil
}

// find is the export a client means; nil when there is none.
func (s *Server) find(name string) *export {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name == "" && len(s.exports) == 1 {
		for _, e := range s.exports {
			return e
		}
	}
	return s.exports[name]
}

// names lists the exports.
func (s *Server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.exports))
}

// Serve accepts connections from ln until ctx ends or ln fails. When ctx ends it closes ln and every connection it accepted,
// and returns nil once all that was in flight has been settled.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return accept.Loop(ctx, ln, s.log, func(ctx context.Context, nc net.Conn) {
		c := s.admit(nc)
		if c == nil {
			return
		}
		defer context.AfterFunc(ctx, func() { c.kill("server stops") })()
		c.serve()
		s.forget(c)
	})
}

func (s *Server) admit(nc net.Conn) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= s.cfg.MaxConnections {
		s.log.Warn("connection refused, too many", "client", nc.RemoteAddr().String())
		_ = nc.Close()
		return nil
	}
	c := newConn(s, nc)
	s.conns[c] = struct{}{}
	return c
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}
