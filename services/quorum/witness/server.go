package witness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/filevoter"
)

// Voter is the witness' name among the voters of each cluster.
const Voter core.VoterID = "witness"

// Config describes a witness.
type Config struct {
	Dir string // durable
	// MirrorDir is on tmpfs and nobody else can write it; "" keeps no mirror: after a restart every group is busy for one lease.
	MirrorDir   string
	Certificate tls.Certificate
	Clusters    []Cluster
}

// Cluster is an installation that the witness votes for.
type Cluster struct {
	Name  string
	CA    []byte // PEM: who signs its services' certificates
	Quota Quota
}

// Quota is what one cluster may ask for.
type Quota struct {
	Groups      int // that have a record here
	Votes       int // a second; one that is made durable counts as ten
	Bytes       int // of requests a second
	Connections int
}

// DefaultQuota is enough for 32 groups of two sites.
func DefaultQuota() Quota { return Quota{Groups: 32, Votes: 400, Bytes: 512 << 10, Connections: 16} }

// Validate names the field that cannot be.
func (q Quota) Validate() error {
	for name, n := range map[string]int{"groups": q.Groups, "votes": q.Votes, "bytes": q.Bytes, "connections": q.Connections} {
		if n < 1 {
			return fmt.Errorf("quota: %s %d: must be above zero: %w", name, n, domain.ErrInvalid)
		}
	}
	return nil
}

// Deps is what the witness is given.
type Deps struct {
	Listener net.Listener // plain: TLS is the witness'
	Logger   *slog.Logger // nil: no log
	BootID   string       // "": the kernel's
}

// How long a client may take, and how much of one it is.
const (
	handshakeTime = 5 * time.Second
	idleTime      = 30 * time.Second
	requestTime   = 10 * time.Second
	strangers     = 1024 // connections of one address that have not proven themselves yet
)

// server is a running witness.
type server struct {
	log     *slog.Logger
	voter   *filevoter.Voter
	members map[string]*member // by cluster
	byCA    []*member
}

// Run votes until ctx ends. Errors: a configuration that cannot be (domain.ErrInvalid), a folder that cannot be used, a listener that
// fails.
func Run(ctx context.Context, cfg Config, deps Deps) error {
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := newServer(cfg, deps)
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: s, TLSConfig: s.tls(cfg.Certificate), ReadHeaderTimeout: handshakeTime, ReadTimeout: requestTime, WriteTimeout: requestTime, IdleTimeout: idleTime,
		MaxHeaderBytes: 8 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // one request at a time on a connection
		BaseContext:  func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, &caller{conn: c})
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	s.log.Info("witness ready", "address", deps.Listener.Addr().String(), "clusters", len(cfg.Clusters))
	if err := srv.ServeTLS(newDoor(deps.Listener, strangers), "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve witness: %w", err)
	}
	return nil
}

func newServer(cfg Config, deps Deps) (*server, error) {
	s := &server{log: deps.Logger.With("service", "witness"), members: map[string]*member{}}
	bootID := deps.BootID
	if bootID == "" {
		var err error
		if bootID, err = filevoter.BootID(); err != nil {
			return nil, err
		}
	}
	if _, err := filevoter.ForgetOtherBoots(cfg.Dir, cfg.MirrorDir, bootID, nil); err != nil {
		return nil, err
	}
	var err error
	s.voter, err = filevoter.Open(filevoter.Config{ID: Voter, Dir: filepath.Join(cfg.Dir, "votes"), Mirror: cfg.MirrorDir, BootID: bootID,
		Now: func() core.Instant { return core.Instant(clock.Now()) }, Logger: s.log})
	if err != nil {
		return nil, err
	}
	for _, c := range cfg.Clusters {
		m, err := newMember(c, s.voter.Groups(c.Name))
		if err != nil {
			return nil, err
		}
		if s.members[c.Name] != nil {
			return nil, fmt.Errorf("witness: cluster %s is listed twice: %w", c.Name, domain.ErrInvalid)
		}
		for _, other := range s.byCA {
			if other.shares(m) {
				return nil, fmt.Errorf("witness: clusters %s and %s have the same authority, so that each could vote as the other: %w", other.name, m.name, domain.ErrInvalid)
			}
		}
		s.members[c.Name], s.byCA = m, append(s.byCA, m)
	}
	return s, nil
}

// tls asks every client for a certificate of one of the clusters.
func (s *server) tls(cert tls.Certificate) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"http/1.1"},
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, _, err := s.whose(cs)
			return err
		}}
}
