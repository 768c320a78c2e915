package target

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/services/replicator/accept"
)

// CHAP is who may log in to a target: User with Secret, and, when MutualSecret is set, how the target proves itself
// in return.
type CHAP struct {
	User         string
	Secret       []byte
	MutualUser   string
	MutualSecret []byte
}

// Config is what a Server needs. The zero value of each field takes the default in its comment.
type Config struct {
	Log *slog.Logger // discarded
	// Portal is the host:port that discovery names; by default the address the initiator connected to.
	Portal string
	// MaxBufferedBytes bounds the memory of all commands in flight (256 MiB), MaxBufferedBytesPerPeer that of one address (half
	// of it), so that none can keep the others waiting with commands whose data it never sends.
	MaxBufferedBytes, MaxBufferedBytesPerPeer int64
	// MaxConnections bounds connections, logged in or not (4096), MaxConnectionsPerPeer those of one address (half of them) and
	// MaxSessionsPerPeer its sessions (as many). A hypervisor has a session for each volume of its guests. IPv6 addresses of one
	// /64 count as one.
	MaxConnections, MaxConnectionsPerPeer, MaxSessionsPerPeer int
	// LoginBackoff is how long an address waits between two credentials after its fourth wrong one (1 s). It doubles with
	// each further one up to MaxLoginBackoff (8 s); right ones end it.
	LoginBackoff, MaxLoginBackoff time.Duration
	// QueueDepth is the command window of a session (128).
	QueueDepth int
	// Discovery, when set, is who may begin a discovery session, which then lists every target. Without it a discovery session
	// needs the credentials of some target where every target has them, and lists those that they open.
	Discovery Guard
	// DiscoveryTimeout ends a discovery session in which nothing was asked for so long (60 s).
	DiscoveryTimeout time.Duration
	// LoginTimeout bounds a login (15 s), WriteTimeout an answer the initiator does not take (30 s), PingInterval the
	// silence before a NOP-In asks whether the initiator is there (15 s); a second such silence ends the session.
	LoginTimeout, WriteTimeout, PingInterval time.Duration
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
	if c.MaxBufferedBytesPerPeer <= 0 {
		c.MaxBufferedBytesPerPeer = c.MaxBufferedBytes / 2
	}
	if c.MaxConnections <= 0 {
		c.MaxConnections = 4096
	}
	if c.MaxConnectionsPerPeer <= 0 {
		c.MaxConnectionsPerPeer = max(c.MaxConnections/2, 1)
	}
	if c.MaxSessionsPerPeer <= 0 {
		c.MaxSessionsPerPeer = c.MaxConnectionsPerPeer
	}
	if c.QueueDepth <= 0 {
		c.QueueDepth = 128
	}
	def(&c.LoginTimeout, 15*time.Second)
	def(&c.WriteTimeout, 30*time.Second)
	def(&c.PingInterval, 15*time.Second)
	def(&c.DiscoveryTimeout, time.Minute)
	def(&c.LoginBackoff, time.Second)
	def(&c.MaxLoginBackoff, 8*time.Second)
	return c
}

// Server serves targets to initiators. Targets come and go while it runs.
type Server struct {
	cfg      Config
	log      *slog.Logger
	pool     iscsi.Pool
	commands *commandSet
	limits   *limits
	buffered atomic.Int64 // bytes of commands in flight
	directs  directs
	began    time.Time

	mu       sync.Mutex
	targets  map[string]*tgt
	conns    map[*conn]struct{}
	lastTSIH uint16
	full     bool // it was told that there are too many connections
}

// tgt is one target: its units and the sessions logged in to it.
type tgt struct {
	iqn   string
	guard Guard // nil: everyone
	luns  map[int]*lun

	mu       sync.Mutex
	removed  bool
	sessions map[*session]struct{}
}

// New makes a server without targets.
func New(cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, log: cfg.Log, commands: newCommandSet(), began: time.Now(), targets: map[string]*tgt{}, conns: map[*conn]struct{}{}}
	s.limits = newLimits(&s.cfg)
	return s
}

// AddTarget starts to serve luns under iqn; auth nil lets everyone in. It refuses (domain.ErrInvalid) a bad name, a
// secret that is too short, a unit of no size, and (domain.ErrConflict) a name that is taken.
func (s *Server) AddTarget(iqn string, luns map[int]Unit, auth *CHAP) error {
	if auth == nil {
		return s.AddGuarded(iqn, luns, nil)
	}
	fixed := []CHAP{*auth}
	return s.AddGuarded(iqn, luns, func() []CHAP { return fixed })
}

// AddGuarded is AddTarget with credentials that may change while it is served; guard nil lets everyone in.
func (s *Server) AddGuarded(iqn string, luns map[int]Unit, guard Guard) error {
	err := checkTarget(iqn, luns)
	if err == nil && guard != nil {
		err = checkCHAP(guard())
	}
	if err != nil {
		return fmt.Errorf("add target %s: %w", iqn, err)
	}
	t := &tgt{iqn: iqn, guard: guard, luns: map[int]*lun{}, sessions: map[*session]struct{}{}}
	for n, u := range luns {
		if t.luns[n], err = newLUN(t, n, u); err != nil {
			return fmt.Errorf("add target %s: unit %d: %w", iqn, n, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.targets[iqn] != nil {
		return fmt.Errorf("add target %s: already served: %w", iqn, domain.ErrConflict)
	}
	s.targets[iqn] = t
	t.watchSizes()
	return nil
}

func checkTarget(iqn string, luns map[int]Unit) error {
	if len(iqn) > 223 || !strings.HasPrefix(iqn, "iqn.") || strings.ToLower(iqn) != iqn || strings.ContainsAny(iqn, " =\x00,\n") {
		return fmt.Errorf("name is not a lower-case iqn: %w", domain.ErrInvalid)
	}
	if len(luns) == 0 {
		return fmt.Errorf("no unit: %w", domain.ErrInvalid)
	}
	for n, u := range luns {
		if n < 0 || n > 16383 {
			return fmt.Errorf("unit number %d: %w", n, domain.ErrInvalid)
		}
		if size := u.Info().SizeBytes; size <= 0 || size%BlockSize != 0 {
			return fmt.Errorf("unit %d of %d bytes, want a multiple of %d: %w", n, size, BlockSize, domain.ErrInvalid)
		}
	}
	return nil
}

func checkCHAP(all []CHAP) error {
	for _, c := range all {
		if c.User == "" || len(c.Secret) < iscsi.MinSecretLen || c.MutualSecret != nil && len(c.MutualSecret) < iscsi.MinSecretLen {
			return fmt.Errorf("CHAP needs a user and secrets of at least %d bytes: %w", iscsi.MinSecretLen, domain.ErrInvalid)
		}
		if string(c.MutualSecret) == string(c.Secret) {
			return fmt.Errorf("CHAP needs different secrets for the two directions: %w", domain.ErrInvalid)
		}
	}
	return nil
}

// RemoveTarget stops serving iqn: it drops every session at once and returns when no further response can be sent and
// everything in flight in the target's units has been settled. It must not be called from a unit's done. Removing what
// is not there is domain.ErrNotFound.
func (s *Server) RemoveTarget(iqn string) error {
	s.mu.Lock()
	t := s.targets[iqn]
	delete(s.targets, iqn)
	s.mu.Unlock()
	if t == nil {
		return fmt.Errorf("remove target %s: %w", iqn, domain.ErrNotFound)
	}
	t.mu.Lock()
	t.removed = true
	t.mu.Unlock()
	t.unwatchSizes()
	t.drop()
	return nil
}

// DropSessions ends the sessions of a target at once, with the same promise as RemoveTarget; initiators may log in
// again. It must not be called from a unit's done.
func (s *Server) DropSessions(iqn string) error {
	t := s.target(iqn)
	if t == nil {
		return fmt.Errorf("drop sessions of %s: %w", iqn, domain.ErrNotFound)
	}
	t.drop()
	return nil
}

func (s *Server) target(iqn string) *tgt {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.targets[iqn]
}

// drop kills the sessions there are and waits for each to be settled.
func (t *tgt) drop() {
	there := t.list()
	for _, ss := range there {
		ss.conn.kill("dropped")
	}
	for _, ss := range there {
		<-ss.gone
	}
}

func (t *tgt) list() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*session, 0, len(t.sessions))
	for ss := range t.sessions {
		out = append(out, ss)
	}
	return out
}

// Serve accepts connections from ln until ctx ends or ln fails. When ctx ends it closes ln and every connection it
// accepted, and returns nil once all that was in flight has been settled.
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
		if !s.full {
			s.full = true
			s.log.Warn("connections refused: there are as many as the target takes", "address", nc.RemoteAddr().String(), "connections", len(s.conns))
		}
		_ = nc.Close()
		return nil
	}
	if !s.limits.connect(peerOf(nc.RemoteAddr())) {
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
	s.limits.disconnect(c.peer)
	if len(s.conns) < s.cfg.MaxConnections/2 {
		s.full = false
	}
}

func (s *Server) newTSIH() uint16 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastTSIH++
	if s.lastTSIH == 0 {
		s.lastTSIH = 1
	}
	return s.lastTSIH
}

// SessionInfo describes a session.
type SessionInfo struct {
	Target, Initiator, Remote string
	TSIH                      uint16
	Since                     time.Time
	HeaderDigest, DataDigest  bool
	InFlight                  int
}

// Sessions lists the sessions there are, by target and initiator.
func (s *Server) Sessions() []SessionInfo {
	s.mu.Lock()
	var all []*session
	for _, t := range s.targets {
		all = append(all, t.list()...)
	}
	s.mu.Unlock()
	out := make([]SessionInfo, 0, len(all))
	for _, ss := range all {
		out = append(out, ss.info())
	}
	slices.SortFunc(out, func(a, b SessionInfo) int {
		return strings.Compare(a.Target+"\x00"+a.Initiator+"\x00"+a.Remote, b.Target+"\x00"+b.Initiator+"\x00"+b.Remote)
	})
	return out
}
