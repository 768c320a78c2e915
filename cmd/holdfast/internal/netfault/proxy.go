// Package netfault is the network between the sites of the all-in-one: one TCP proxy for each direction in which a site
// connects to another, which can be cut (bytes stand still, as on a dead link, both ways or one), refuse, delayed, or narrowed.
package netfault

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Mode is what happens to bytes and connections.
type Mode int

const (
	// Pass lets everything through.
	Pass Mode = iota
	// Cut keeps connections open and moves no byte, like a link that was dug up; new connections hang. That an end closed
	// its connection does not cross either.
	Cut
	// Refuse resets every connection that stands, and each new one as it comes, like a firewall that rejects.
	Refuse
)

// Way is one of the two directions in which bytes go.
type Way int

const (
	// Forth is towards the target of the proxy.
	Forth Way = iota
	// Back is away from it.
	Back
)

// Proxy forwards TCP connections from its own address to a target.
type Proxy struct {
	target string
	ln     net.Listener
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	refuse bool
	closed bool
	delay  time.Duration
	lanes  [2]lane // by Way
	conns  map[net.Conn]struct{}
}

// Listen makes a proxy at listen (host:port, port 0 takes a free one) for target. It ends with ctx.
func Listen(ctx context.Context, listen, target string) (*Proxy, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("open a link to %s: %w", target, err)
	}
	ctx, stop := context.WithCancel(ctx)
	p := &Proxy{target: target, ln: ln, stop: stop, conns: map[net.Conn]struct{}{}}
	p.wg.Go(func() { p.accept(ctx) })
	context.AfterFunc(ctx, p.Close)
	return p, nil
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Set changes what happens to bytes from now on, both ways.
func (p *Proxy) Set(m Mode) {
	p.mu.Lock()
	p.refuse = m == Refuse
	p.mu.Unlock()
	if m == Refuse {
		p.Reset()
	}
	for i := range p.lanes {
		p.lanes[i].set(m)
	}
}

// SetWay lets bytes pass one way, or cuts it; what happens the other way stays as it is. While one way is cut new connections hang,
// since it takes both to make one.
func (p *Proxy) SetWay(w Way, m Mode) { p.lanes[w].set(m) }

// SetDelay is how long each byte is on its way, in either direction. Bytes follow one another without waiting for it.
func (p *Proxy) SetDelay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// SetRate is how many bytes a second go each way, over all connections together; 0 is no limit.
func (p *Proxy) SetRate(bytes int64) {
	for i := range p.lanes {
		p.lanes[i].narrow(bytes)
	}
}

// Reset ends every connection that stands, at both its ends.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		reset(c)
	}
}

// reset ends a connection as a lost one ends: with what was under way.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// Close ends the proxy and its connections, and returns when nothing of it runs any more.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.stop()
	_ = p.ln.Close()
	p.Reset()
	p.wg.Wait()
}

func (p *Proxy) accept(ctx context.Context) {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(ctx, c) })
	}
}

// track keeps a connection, so that it can be reset; false when it is to end at once.
func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = struct{}{}
	return !p.refuse && !p.closed
}

func (p *Proxy) untrack(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Proxy) travel() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay
}

func (p *Proxy) serve(ctx context.Context, near net.Conn) {
	defer p.untrack(near)
	defer reset(near)
	if !p.track(near) || !p.lanes[Forth].pass(ctx) || !p.lanes[Back].pass(ctx) {
		return
	}
	far, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer p.untrack(far)
	defer reset(far)
	if !p.track(far) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.carry(ctx, far, near, Forth) })
	wg.Go(func() { p.carry(ctx, near, far, Back) })
	wg.Wait()
}

// chunk is bytes on their way.
type chunk struct {
	bytes []byte
	due   time.Time
}

// carry moves bytes from src to dst until either ends. The other learns of it as of a byte: once the way to it is not cut.
func (p *Proxy) carry(ctx context.Context, dst, src net.Conn, w Way) {
	l := &p.lanes[w]
	way := make(chan chunk, onTheWay)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(way)
		p.take(ctx, src, l, way)
	})
	gone := false
	for c := range way {
		if !l.pass(ctx) || !until(ctx, c.due) {
			break
		}
		if _, err := dst.Write(c.bytes); err != nil {
			gone = true
			break
		}
	}
	wg.Go(func() {
		for range way { // what was on its way is lost, and take must not wait for its place
		}
	})
	if gone {
		p.lanes[1-w].pass(ctx)
	} else {
		l.pass(ctx)
	}
	_ = dst.Close()
	_ = src.Close()
	wg.Wait()
}

// onTheWay bounds the chunks under way in one direction of one connection.
const onTheWay = 1024

// take reads from src, at the rate of the lane.
func (p *Proxy) take(ctx context.Context, src net.Conn, l *lane, way chan<- chunk) {
	buf := make([]byte, 16<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			sent := l.send(n)
			way <- chunk{bytes.Clone(buf[:n]), sent.Add(p.travel())}
			if !until(ctx, sent) {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
