// Package netfault is the network between the sites of the all-in-one: one TCP proxy for each direction in which a site
// connects to another, which can be cut (bytes stand still, as on a dead link), reset, delayed, or narrowed.
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
	// Cut keeps connections open and moves no byte, like a link that was dug up; new connections hang.
	Cut
)

// Proxy forwards TCP connections from its own address to a target.
type Proxy struct {
	target string
	ln     net.Listener

	mu    sync.Mutex
	mode  Mode
	gate  chan struct{} // closed while bytes may pass
	delay time.Duration
	up    lane // towards the target
	down  lane
	conns map[net.Conn]struct{}
}

// Listen makes a proxy at listen (host:port, port 0 takes a free one) for target. It ends with ctx.
func Listen(ctx context.Context, listen, target string) (*Proxy, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("open a link to %s: %w", target, err)
	}
	p := &Proxy{target: target, ln: ln, gate: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	close(p.gate)
	context.AfterFunc(ctx, p.Close)
	go p.accept(ctx)
	return p, nil
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Set changes what happens to bytes from now on.
func (p *Proxy) Set(m Mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m == p.mode {
		return
	}
	p.mode = m
	if m == Cut {
		p.gate = make(chan struct{})
	} else {
		close(p.gate)
	}
}

// SetDelay is how long each byte is on its way, in either direction. Bytes follow one another without waiting for it.
func (p *Proxy) SetDelay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// SetRate is how many bytes a second go each way, over all connections together; 0 is no limit.
func (p *Proxy) SetRate(bytes int64) {
	p.up.set(bytes)
	p.down.set(bytes)
}

// Reset closes every connection that stands.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	_ = p.ln.Close()
	p.Reset()
}

func (p *Proxy) accept(ctx context.Context) {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		go p.serve(ctx, c)
	}
}

func (p *Proxy) track(c net.Conn, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if on {
		p.conns[c] = struct{}{}
	} else {
		delete(p.conns, c)
	}
}

// pass waits until bytes may pass. It is false when ctx ends.
func (p *Proxy) pass(ctx context.Context) bool {
	for {
		p.mu.Lock()
		gate, mode := p.gate, p.mode
		p.mu.Unlock()
		if mode == Pass {
			return true
		}
		select {
		case <-gate:
		case <-ctx.Done():
			return false
		}
	}
}

func (p *Proxy) travel() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.delay
}

func (p *Proxy) serve(ctx context.Context, near net.Conn) {
	p.track(near, true)
	defer p.track(near, false)
	defer func() { _ = near.Close() }()
	if !p.pass(ctx) {
		return
	}
	far, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", p.target)
	if err != nil {
		return
	}
	p.track(far, true)
	defer p.track(far, false)
	var wg sync.WaitGroup
	wg.Go(func() { p.carry(ctx, far, near, &p.up) })
	wg.Go(func() { p.carry(ctx, near, far, &p.down) })
	wg.Wait()
}

// chunk is bytes on their way.
type chunk struct {
	bytes []byte
	due   time.Time
}

// carry moves bytes from src to dst until either ends, then ends both.
func (p *Proxy) carry(ctx context.Context, dst, src net.Conn, l *lane) {
	way := make(chan chunk, onTheWay)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(way)
		p.take(ctx, src, l, way)
	})
	for c := range way {
		if !p.pass(ctx) || !until(ctx, c.due) {
			break
		}
		if _, err := dst.Write(c.bytes); err != nil {
			break
		}
	}
	_ = dst.Close()
	_ = src.Close()
	for range way { // what was on its way is lost, and take must not wait for its place
	}
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
