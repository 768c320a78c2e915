package target

import (
	"log/slog"
	"math/bits"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// maxPeers bounds the addresses that are remembered for their failed logins alone.
const maxPeers = 4096

// freeFailures is how many wrong credentials cost no waiting: a mistyped secret, or one that is just being changed.
const freeFailures = 3

// limits counts what each address has open and holds up the logins of one that fails them. What one address does is never
// felt by another.
type limits struct {
	cfg *Config
	log *slog.Logger

	mu    sync.Mutex
	peers map[netip.Addr]*peer
}

// peer is one address: of IPv6 the first 64 bits, which one host may fill as it likes.
type peer struct {
	connections, sessions int
	told                  bool // that it has too many connections
	failures              int  // wrong credentials since the last right ones
	failed                time.Time
	next                  time.Time // when credentials of this address are looked at again
	refused               int       // logins since the last one that was let in
	refusedAt             time.Time
	buffered              atomic.Int64
}

func newLimits(cfg *Config) *limits {
	return &limits{cfg: cfg, log: cfg.Log, peers: map[netip.Addr]*peer{}}
}

// peerOf is the address that a connection counts for; the zero address for what is no TCP connection.
func peerOf(a net.Addr) netip.Addr {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip, _ := netip.AddrFromSlice(tcp.IP)
	if ip = ip.Unmap(); ip.Is4() {
		return ip
	}
	p, err := ip.Prefix(64)
	if err != nil {
		return ip
	}
	return p.Addr()
}

// connect counts a connection; false when its address has too many.
func (l *limits) connect(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(a)
	if p.connections >= l.cfg.MaxConnectionsPerPeer {
		if !p.told {
			p.told = true
			l.log.Warn("connections refused: this address has as many as one may", "address", a.String(), "connections", p.connections)
		}
		return false
	}
	p.connections++
	return true
}

// disconnect is the end of a connection that connect let in.
func (l *limits) disconnect(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(a)
	p.connections--
	if p.connections < l.cfg.MaxConnectionsPerPeer/2 {
		p.told = false
	}
	l.forget(a, p)
}

// begin counts a session and returns what counts the memory of its address; false when that has too many sessions.
func (l *limits) begin(a netip.Addr) (buffered *atomic.Int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(a)
	if p.sessions >= l.cfg.MaxSessionsPerPeer {
		return nil, false
	}
	p.sessions++
	p.refused = 0
	return &p.buffered, true
}

// end is the end of a session that begin let in.
func (l *limits) end(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(a)
	p.sessions--
	l.forget(a, p)
}

// turn is how long credentials of an address have to wait until they are looked at. Each gets a moment of its own, so that
// many connections guess no faster than one; ok is false when the wait is longer than patience.
func (l *limits) turn(a netip.Addr, patience time.Duration) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(a)
	delay := l.delay(p)
	if delay == 0 {
		return 0, true
	}
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	if wait = p.next.Sub(now); wait > patience {
		return 0, false
	}
	p.next = p.next.Add(delay)
	return wait, true
}

// delay doubles with every failure beyond those that are free.
func (l *limits) delay(p *peer) time.Duration {
	n := p.failures - freeFailures
	if n < 0 || time.Since(p.failed) > l.forgetAfter() {
		return 0
	}
	return min(l.cfg.LoginBackoff<<min(n, 20), l.cfg.MaxLoginBackoff)
}

// forgetAfter is how long a failure is held against an address.
func (l *limits) forgetAfter() time.Duration { return 30 * l.cfg.MaxLoginBackoff }

// failedLogin counts wrong or missing credentials.
func (l *limits) failedLogin(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(a)
	if time.Since(p.failed) > l.forgetAfter() {
		p.failures = 0
	}
	before := l.delay(p)
	p.failures++
	p.failed = time.Now()
	if now := l.delay(p); now > before {
		l.log.Warn("logins of this address are held up: it keeps failing them", "address", a.String(), "failures", p.failures, "delay", now)
	}
}

// rightLogin forgets the failures of an address.
func (l *limits) rightLogin(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(a)
	p.failures, p.next = 0, time.Time{}
	l.forget(a, p)
}

// refusal counts a login that failed, whatever for, and says whether it is to be logged: of many in a row only some are, lest
// a flood of them fill the disk.
func (l *limits) refusal(a netip.Addr) (inARow int, tell bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.of(a)
	if time.Since(p.refusedAt) > l.forgetAfter() {
		p.refused = 0
	}
	p.refused++
	p.refusedAt = time.Now()
	return p.refused, p.refused <= 8 || bits.OnesCount(uint(p.refused)) == 1
}

// of is what is known of an address. Addresses with connections are as few as connections; of the others the one whose
// failure is oldest goes when there are too many.
func (l *limits) of(a netip.Addr) *peer {
	if p := l.peers[a]; p != nil {
		return p
	}
	if len(l.peers) >= maxPeers {
		l.evict()
	}
	p := &peer{}
	l.peers[a] = p
	return p
}

func (l *limits) evict() {
	var oldest netip.Addr
	var when time.Time
	for a, p := range l.peers {
		if p.connections == 0 && p.sessions == 0 && (when.IsZero() || p.fault().Before(when)) {
			oldest, when = a, p.fault()
		}
	}
	if !when.IsZero() {
		delete(l.peers, oldest)
	}
}

// fault is when the address last did what is held against it.
func (p *peer) fault() time.Time {
	if p.refusedAt.After(p.failed) {
		return p.refusedAt
	}
	return p.failed
}

// forget drops an address of which nothing has to be known.
func (l *limits) forget(a netip.Addr, p *peer) {
	blameless := p.failures == 0 && p.refused == 0 || time.Since(p.fault()) > l.forgetAfter()
	if p.connections == 0 && p.sessions == 0 && blameless {
		delete(l.peers, a)
	}
}
