// Package authority is a small authoritative DNS server for one delegated zone, over UDP and TCP (RFC 1034, 1035, 2308,
// 6891): A, AAAA, SOA and NS, nothing recursive, nothing transferred. It answers from whatever zone it is handed at the
// moment of the question.
//
// It stays small on purpose: what it does not know it refuses, a message it cannot read is dropped or answered at a
// bounded rate, and connections are bounded in number and time.
package authority

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"

	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

const (
	maxConnections     = 256
	maxQueriesPerConn  = 128
	readTimeout        = 2 * time.Second // also how long a connection may take over one message
	idleTimeout        = 8 * time.Second
	errorRepliesPerSec = 50
	malformedLogEvery  = 10 * time.Second
	defaultNegativeTTL = 5 // seconds
)

// Config says what the zone's apex looks like.
type Config struct {
	NameServers []string // the zone's NS; the first is the SOA's; at least one. Addresses within the zone are records of it
	Mailbox     string   // of the person in charge, as a name; empty: hostmaster.<zone>
	NegativeTTL uint32   // how long "no such name" may be cached, in seconds; 0: 5
}

// Server is the zone's authority at one site.
type Server struct {
	answerer answerer
	current  func() zone.Zone
	log      *slog.Logger
	udp      net.PacketConn
	tcp      net.Listener
	errors   *rate.Limiter // replies that tell a sender its message was no good
	logged   rate.Sometimes
}

// Listen binds UDP and TCP at addr (host:port; with port 0 the two get one free port) and starts nothing: a question
// that comes before Run waits in the socket. current is asked for the zone at each question. serving says whether this
// site may answer for a name at this moment; when not, the answer is SERVFAIL and a resolver asks another site. A nil
// serving is always yes.
func Listen(ctx context.Context, addr string, cfg Config, current func() zone.Zone, serving func(name string) bool, log *slog.Logger) (*Server, error) {
	a, err := newAnswerer(cfg, current().Origin(), serving)
	if err != nil {
		return nil, err
	}
	udp, tcp, err := bind(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &Server{answerer: a, current: current, log: log, udp: udp, tcp: netutil.LimitListener(tcp, maxConnections),
		errors: rate.NewLimiter(errorRepliesPerSec, errorRepliesPerSec), logged: rate.Sometimes{Interval: malformedLogEvery}}, nil
}

func newAnswerer(cfg Config, origin string, serving func(string) bool) (answerer, error) {
	if len(cfg.NameServers) == 0 {
		return answerer{}, fmt.Errorf("zone %s: no name server: name at least one under name_servers", origin)
	}
	a := answerer{mailbox: cfg.Mailbox, negativeTTL: cfg.NegativeTTL, serving: serving}
	for _, ns := range cfg.NameServers {
		n, err := zone.CanonicalName(ns)
		if err != nil {
			return answerer{}, fmt.Errorf("zone %s: name server: %w", origin, err)
		}
		a.nameServers = append(a.nameServers, n)
	}
	if a.mailbox == "" {
		a.mailbox = "hostmaster." + origin
	}
	var err error
	if a.mailbox, err = zone.CanonicalName(a.mailbox); err != nil {
		return answerer{}, fmt.Errorf("zone %s: mailbox: %w", origin, err)
	}
	if a.negativeTTL == 0 {
		a.negativeTTL = defaultNegativeTTL
	}
	if a.serving == nil {
		a.serving = func(string) bool { return true }
	}
	return a, nil
}

// bind takes the same port for both. With port 0 the TCP port the kernel gave may be in use for UDP: then another is tried.
func bind(ctx context.Context, addr string) (net.PacketConn, net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, fmt.Errorf("dns listen %q: want host:port: %w", addr, err)
	}
	const tries = 16
	var lc net.ListenConfig
	for try := 1; ; try++ {
		tcp, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return nil, nil, fmt.Errorf("dns listen tcp %s: %w: give another address under dns.listen, or stop what has it", addr, err)
		}
		same := net.JoinHostPort(host, strconv.Itoa(tcp.Addr().(*net.TCPAddr).Port))
		udp, err := lc.ListenPacket(ctx, "udp", same)
		if err == nil {
			return udp, tcp, nil
		}
		_ = tcp.Close()
		if port != "0" || try == tries {
			return nil, nil, fmt.Errorf("dns listen udp %s: %w: give another address under dns.listen, or stop what has it", same, err)
		}
	}
}

// Addr is where the server listens, for UDP and TCP both.
func (s *Server) Addr() string { return s.tcp.Addr().String() }

// Close gives the sockets back when Run is not going to be called.
func (s *Server) Close() error { return errors.Join(s.udp.Close(), s.tcp.Close()) }

// Run answers until ctx is cancelled, which is no error, or a socket fails. It returns when all its goroutines have ended.
func (s *Server) Run(ctx context.Context) error {
	servers := []*dns.Server{{PacketConn: s.udp}, {Listener: s.tcp}}
	ended := make(chan error, len(servers))
	var started, running sync.WaitGroup
	for i, srv := range servers {
		s.configure(srv, i == 1)
		var once sync.Once
		started.Add(1)
		up := func() { once.Do(started.Done) }
		srv.NotifyStartedFunc = up
		running.Go(func() {
			err := srv.ActivateAndServe()
			up()
			ended <- err
		})
	}
	started.Wait() // a server that has not started cannot be shut down
	var err error
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	for _, srv := range servers {
		_ = srv.Shutdown() // an error only says that it has stopped by itself
	}
	running.Wait()
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve dns at %s: %w", s.Addr(), err)
	}
	return nil
}

func (s *Server) configure(srv *dns.Server, overTCP bool) {
	srv.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		_ = w.WriteMsg(s.answerer.reply(s.current(), req, overTCP)) // a client that has gone away is its own affair
	})
	srv.ReadTimeout = readTimeout
	srv.IdleTimeout = func() time.Duration { return idleTimeout }
	srv.MaxTCPQueries = maxQueriesPerConn
	srv.UDPSize = dns.DefaultMsgSize
	srv.MsgInvalidFunc = func(_ []byte, err error) {
		s.logged.Do(func() { s.log.Warn("dns message cannot be read", "error", err) })
	}
	srv.DecorateWriter = func(w dns.Writer) dns.Writer { return boundedErrors{w, s.errors} }
}

// boundedErrors drops replies of format error and not implemented beyond a rate: whoever sends such messages, or has them
// sent in another's name, gets no stream of replies for it.
type boundedErrors struct {
	dns.Writer
	limit *rate.Limiter
}

func (b boundedErrors) Write(m []byte) (int, error) {
	const rcodeByte, rcodeMask = 3, 0x0f
	if len(m) > rcodeByte {
		switch int(m[rcodeByte] & rcodeMask) {
		case dns.RcodeFormatError, dns.RcodeNotImplemented:
			if !b.limit.Allow() {
				return len(m), nil
			}
		}
	}
	return b.Writer.Write(m)
}
