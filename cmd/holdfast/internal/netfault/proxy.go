// Package netfault is the network between the sites of the all-in-one: one TCP proxy for each direction in which a site
// connects to another, which can be cut (bytes stand still, as on a dead link), reset, or delayed.
package netfault

import (
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

// SetDelay makes every chunk of bytes wait, in both directions.
func (p *Proxy) SetDelay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
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

// pass waits until bytes may pass, and returns the delay they have. It is false when ctx ends.
func (p *Proxy) pass(ctx context.Context) (time.Duration, bool) {
	for {
		p.mu.Lock()
		gate, delay, mode := p.gate, p.delay, p.mode
		p.mu.Unlock()
		if mode == Pass {
			return delay, true
		}
		select {
		case <-gate:
		case <-ctx.Done():
			return 0, false
		}
	}
}

func (p *Proxy) serve(ctx context.Context, down net.Conn) {
	p.track(down, true)
	defer p.track(down, false)
	defer func() { _ = down.Close() }()
	if _, ok := p.pass(ctx); !ok {
		return
	}
	up, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", p.target)
	if err != nil {
		return
	}
	p.track(up, true)
	defer p.track(up, false)
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(ctx, up, down) })
	wg.Go(func() { p.copy(ctx, down, up) })
	wg.Wait()
}

func (p *Proxy) copy(ctx context.Context, dst, src net.Conn) {
	defer func() { _ = dst.Close(); _ = src.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			delay, ok := p.pass(ctx)
			if !ok {
				return
			}
			if delay > 0 {
				t := time.NewTimer(delay)
				select {
				case <-t.C:
				case <-ctx.Done():
					t.Stop()
					return
				}
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
