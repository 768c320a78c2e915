package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
)

// MaxConnections bounds the connections of one relay, all peers together: 64 KiB of buffers and two descriptors each.
const MaxConnections = 1024

// Timing bounds every wait of a relay.
type Timing struct {
	Hello  time.Duration // for a client's line
	Dial   time.Duration // to the destination; less than a client waits, so that it hears why
	Idle   time.Duration // without a byte in either direction; NATS clients and servers ask for a sign of life every few seconds
	Linger time.Duration // the same, once one side has ended what it sends
}

// DefaultTiming is how a site's relay is run.
func DefaultTiming() Timing {
	return Timing{Hello: 2 * time.Second, Dial: 1500 * time.Millisecond, Idle: time.Minute, Linger: 10 * time.Second}
}

// Config is one site's relay.
type Config struct {
	Site    domain.SiteID
	Listen  string                   // host:port
	To      map[domain.SiteID]string // host:port of the NATS server of each site that is relayed to
	PerPeer int                      // connections of one address
	Timing  Timing
	Logger  *slog.Logger
	Metrics *telemetry.Metrics // may be nil
}

// Server is a running relay.
type Server struct {
	cfg   Config
	ln    net.Listener
	log   *slog.Logger
	meter *meter
	said  said
	stop  context.CancelFunc
	done  sync.WaitGroup
	spare chan struct{} // for connections beyond the limits, while they are told so

	mu    sync.Mutex
	open  map[net.Conn]struct{} // both ends of each connection
	peers map[string]int        // connections by the client's address
	total int
}

// Start listens and relays until ctx ends or Stop is called.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for the relay of site %s: %w", cfg.Site, err)
	}
	s := &Server{cfg: cfg, ln: ln, log: cfg.Logger.With("site", string(cfg.Site), "service", "relay"), open: map[net.Conn]struct{}{}, peers: map[string]int{},
		spare: make(chan struct{}, 64)}
	s.meter = newMeter(cfg.Metrics, cfg.To)
	ctx, s.stop = context.WithCancel(ctx)
	context.AfterFunc(ctx, s.closeAll)
	s.done.Go(func() { s.accept(ctx) })
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Stop ends the relay and every connection, and waits for their end.
func (s *Server) Stop() {
	s.stop()
	s.done.Wait()
}

func (s *Server) closeAll() {
	_ = s.ln.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_ = c.Close()
	}
}

func (s *Server) accept(ctx context.Context) {
	for ctx.Err() == nil {
		c, err := s.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptors left, or a client that went again at once
			s.warn(err.Error(), "connection not accepted", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		s.done.Go(func() { s.serve(ctx, c.(*net.TCPConn)) })
	}
}

// serve carries one connection from its line to its end.
func (s *Server) serve(ctx context.Context, near *net.TCPConn) {
	defer func() { _ = near.Close() }()
	peer, _, _ := net.SplitHostPort(near.RemoteAddr().String())
	if !s.track(ctx, near) {
		return
	}
	defer s.untrack(near)
	if err := s.admit(peer); err != nil {
		select {
		case s.spare <- struct{}{}:
			s.refuse(near, peer, noSite, resultBusy, err)
			<-s.spare
		default:
			s.meter.ended(noSite, resultBusy)
		}
		return
	}
	defer s.dismiss(peer)
	_ = near.SetDeadline(time.Now().Add(s.cfg.Timing.Hello))
	to, err := readRequest(near)
	if errors.Is(err, errNotRelay) {
		s.refuse(near, peer, noSite, resultRefused, fmt.Errorf("%w: %w: this is the relay of site %s", domain.ErrInvalid, err, s.cfg.Site))
		return
	} else if err != nil {
		s.meter.ended(noSite, resultRefused)
		return
	}
	address, ok := s.cfg.To[to]
	if !ok {
		s.refuse(near, peer, noSite, resultRefused, fmt.Errorf("%w: site %s does not relay to site %s: list it under relay.to in site %s's configuration", domain.ErrRefused, s.cfg.Site, to, s.cfg.Site))
		return
	}
	s.relay(ctx, near, peer, to, address)
}

// relay connects the destination and carries bytes until both sides have ended.
func (s *Server) relay(ctx context.Context, near *net.TCPConn, peer string, to domain.SiteID, address string) {
	far, err := (&net.Dialer{Timeout: s.cfg.Timing.Dial}).DialContext(ctx, "tcp", address)
	if err != nil {
		s.refuse(near, peer, to, resultUnreached, fmt.Errorf("%w: site %s does not reach the NATS server of site %s either: %w", domain.ErrUnavailable, s.cfg.Site, to, err))
		return
	}
	defer func() { _ = far.Close() }()
	if !s.track(ctx, far) {
		return
	}
	defer s.untrack(far)
	if _, err := near.Write(answer(nil)); err != nil {
		s.meter.ended(to, resultRefused)
		return
	}
	_ = near.SetDeadline(time.Time{})
	s.log.Debug("relaying", "peer", peer, "to", string(to))
	s.meter.began(to)
	defer s.meter.ended(to, resultRelayed)
	up, down := s.meter.bytes(to)
	carry(near, far.(*net.TCPConn), s.cfg.Timing, up, down)
}

// refuse tells the client why, the log once in a while, and the metrics.
func (s *Server) refuse(near *net.TCPConn, peer string, to domain.SiteID, result string, err error) {
	s.meter.ended(to, result)
	s.warn(peer+" "+result+" "+string(to), "connection not relayed", "peer", peer, "to", string(to), "error", err)
	_ = near.SetDeadline(time.Now().Add(s.cfg.Timing.Hello))
	if _, err := near.Write(answer(err)); err == nil {
		drain(near)
	}
}

// track makes a connection end with the relay; false when that has ended.
func (s *Server) track(ctx context.Context, c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *Server) untrack(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
}

// admit counts a client's connection. The error wraps domain.ErrRefused.
func (s *Server) admit(peer string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= MaxConnections {
		return fmt.Errorf("%w: the relay of site %s has %d connections and takes no more", domain.ErrRefused, s.cfg.Site, MaxConnections)
	}
	if s.peers[peer] >= s.cfg.PerPeer {
		return fmt.Errorf("%w: the relay of site %s has %d connections of %s: raise relay.connections_per_peer in its configuration if these are all wanted", domain.ErrRefused, s.cfg.Site, s.cfg.PerPeer, peer)
	}
	s.total++
	s.peers[peer]++
	return nil
}

func (s *Server) dismiss(peer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.peers[peer]--; s.peers[peer] == 0 {
		delete(s.peers, peer)
	}
}

// warn logs the same trouble once a minute.
func (s *Server) warn(key, msg string, args ...any) {
	if s.said.fresh(key, time.Now()) {
		s.log.Warn(msg, args...)
	}
}

// said remembers what was logged lately.
type said struct {
	mu sync.Mutex
	at map[string]time.Time
}

const (
	sayAgain = time.Minute
	maxSaid  = 1000
)

func (s *said) fresh(key string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.at[key]; ok && now.Sub(at) < sayAgain {
		return false
	}
	if s.at == nil || len(s.at) >= maxSaid {
		s.at = map[string]time.Time{}
	}
	s.at[key] = now
	return true
}
