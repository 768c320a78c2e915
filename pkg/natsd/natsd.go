// Package natsd runs a site's NATS server inside the process: its own JetStream domain, its own store, joined to no
// other server. It and package bus are the only importers of NATS.
package natsd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Config describes the server of one site.
type Config struct {
	Site     domain.SiteID
	Listen   string // host:port; port 0 takes a free one
	StoreDir string // JetStream's files
	// Conf is the file that Conf rendered: TLS, accounts and permissions. Empty: plain, for loopback only. Listen and StoreDir,
	// where given, take the place of the file's. The server follows changes of the file and of the certificates it names.
	Conf   string
	Logger *slog.Logger
}

// Server is a running NATS server.
type Server struct {
	srv    *server.Server
	addr   string
	scheme string
	once   sync.Once // of stop
	stop   chan struct{}
	ended  chan struct{} // closed when nothing watches the configuration any more
}

const (
	maxPayloadBytes = 8 << 20
	maxPendingBytes = 64 << 20
	maxMemoryBytes  = 8 << 30
	// maxControlLineBytes is far above the longest token of a user.
	maxControlLineBytes = 64 << 10
	maxStoreBytes       = 16 << 30
	closedClients       = 10000 // kept for those who ask which connections were refused
	readyWait           = 20 * time.Second
)

// Start runs the server and returns once clients can connect. Errors name the address when it is in use, and what in the
// configuration file is wrong.
func Start(cfg Config) (*Server, error) {
	opts, err := options(cfg)
	if err != nil {
		return nil, fmt.Errorf("start NATS server of site %s: %w", cfg.Site, err)
	}
	if opts.Port > 0 {
		addr := net.JoinHostPort(opts.Host, strconv.Itoa(opts.Port))
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("start NATS server on %s: %w: free the port, or set nats.listen to another", addr, err)
		}
		_ = l.Close()
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("start NATS server of site %s: %w", cfg.Site, err)
	}
	if cfg.Logger != nil {
		srv.SetLoggerV2(natsLogger{cfg.Logger.With("site", string(cfg.Site), "part", "nats")}, false, false, false)
	}
	srv.Start()
	if !srv.ReadyForConnections(readyWait) {
		srv.Shutdown()
		return nil, fmt.Errorf("start NATS server of site %s on %s: not ready after %s: look for its errors in the log (is %s writable?)",
			cfg.Site, cfg.Listen, readyWait, opts.StoreDir)
	}
	s := &Server{srv: srv, addr: srv.Addr().String(), scheme: "nats://", stop: make(chan struct{}), ended: make(chan struct{})}
	if cfg.Conf == "" {
		close(s.ended)
		return s, nil
	}
	s.scheme = "tls://"
	go s.follow(cfg)
	return s, nil
}

// options are the server's, of the configuration file or of a plain server.
func options(cfg Config) (*server.Options, error) {
	opts := &server.Options{
		ServerName: serverName(cfg.Site), NoSigs: true,
		JetStream: true, JetStreamDomain: string(cfg.Site), StoreDir: cfg.StoreDir, SyncAlways: true,
		MaxPayload: maxPayloadBytes, MaxPending: maxPendingBytes,
		PingInterval: 2 * time.Second, MaxPingsOut: 2, WriteDeadline: 10 * time.Second,
		JetStreamMaxMemory: maxMemoryBytes, JetStreamMaxStore: maxStoreBytes,
		DisableJetStreamBanner: true, NoSystemAccount: false,
	}
	if cfg.Conf != "" {
		var err error
		if opts, err = server.ProcessConfigFile(cfg.Conf); err != nil {
			return nil, fmt.Errorf("configuration %s: %w: write it again with holdfast site join", cfg.Conf, err)
		}
		if opts.JetStreamDomain != string(cfg.Site) {
			return nil, fmt.Errorf("configuration %s is of site %q: %w: give this site's own nats.conf", cfg.Conf, opts.JetStreamDomain, domain.ErrInvalid)
		}
		opts.NoSigs, opts.DisableJetStreamBanner = true, true
		if cfg.StoreDir != "" {
			opts.StoreDir = cfg.StoreDir
		}
		if cfg.Listen == "" {
			return opts, nil
		}
	}
	host, portText, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: %w: want host:port", cfg.Listen, domain.ErrInvalid)
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 0 || port > 65535 {
		return nil, fmt.Errorf("listen address %q: %w: the port must be 0 to 65535", cfg.Listen, domain.ErrInvalid)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	opts.Host, opts.Port = host, port
	return opts, nil
}

// Addr is the host:port that clients connect to.
func (s *Server) Addr() string { return s.addr }

// URL is the address as NATS clients take it.
func (s *Server) URL() string { return s.scheme + s.addr }

// Answers is nil when the server takes a client, of its own process, and greets it. ctx must have a deadline.
func (s *Server) Answers(ctx context.Context) error {
	conn, err := s.srv.InProcessConn()
	if err != nil {
		return fmt.Errorf("connect to the NATS server: %w: %w", domain.ErrUnavailable, err)
	}
	defer func() { _ = conn.Close() }()
	until, _ := ctx.Deadline()
	if err := conn.SetReadDeadline(until); err != nil {
		return fmt.Errorf("wait for the NATS server: %w", err)
	}
	word := make([]byte, len("INFO"))
	if _, err := io.ReadFull(conn, word); err != nil {
		return fmt.Errorf("wait for the NATS server to greet: %w: %w", domain.ErrUnavailable, err)
	}
	return nil
}

// Stop ends the server and its connections. A repeat is harmless.
func (s *Server) Stop() {
	s.once.Do(func() { close(s.stop) })
	<-s.ended
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// natsLogger hands the server's warnings and errors to slog.
type natsLogger struct{ log *slog.Logger }

func (l natsLogger) Noticef(f string, v ...any) {
	l.log.Debug("nats notice", "text", fmt.Sprintf(f, v...))
}
func (l natsLogger) Warnf(f string, v ...any) {
	l.log.Warn("nats warning", "text", fmt.Sprintf(f, v...))
}
func (l natsLogger) Fatalf(f string, v ...any) {
	l.log.Error("nats fatal", "text", fmt.Sprintf(f, v...))
}
func (l natsLogger) Errorf(f string, v ...any) {
	l.log.Error("nats error", "text", fmt.Sprintf(f, v...))
}
func (l natsLogger) Debugf(string, ...any) {}
func (l natsLogger) Tracef(string, ...any) {}
