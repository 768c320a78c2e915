package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// chunk is what is read at once of one direction. A destination that takes no more holds it up, and TCP whoever sends.
const chunk = 32 << 10

// pair is a connection and its continuation.
type pair struct {
	t     Timing
	start time.Time
	last  atomic.Int64 // when a byte last moved, in either direction, since start

	mu   sync.Mutex // held while a read's deadline is set
	half bool       // one side has ended what it sends
}

// carry moves bytes both ways until both sides have ended what they send, one broke off, or nothing moved for too long. up counts
// what near sends, down what far does.
func carry(near, far *net.TCPConn, t Timing, up, down func(int)) {
	p := &pair{t: t, start: time.Now()}
	var wg sync.WaitGroup
	wg.Go(func() { p.move(far, near, up) })
	wg.Go(func() { p.move(near, far, down) })
	wg.Wait()
}

// move carries one direction. An end is passed on as an end, so that the other direction goes on; anything else breaks off both.
func (p *pair) move(dst, src *net.TCPConn, count func(int)) {
	buf := make([]byte, chunk)
	for {
		p.await(src)
		n, err := src.Read(buf)
		if n > 0 {
			p.touch()
			_ = dst.SetWriteDeadline(time.Now().Add(p.t.Idle))
			if _, werr := dst.Write(buf[:n]); werr != nil {
				breakOff(dst, src)
				return
			}
			p.touch()
			count(n)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			_ = dst.CloseWrite()
			p.halve(dst)
			return
		case errors.Is(err, os.ErrDeadlineExceeded) && time.Until(p.deadline()) > 0:
			// The other direction moved meanwhile.
		default:
			breakOff(dst, src)
			return
		}
	}
}

func (p *pair) touch() { p.last.Store(int64(time.Since(p.start))) }

// deadline is until when something must move.
func (p *pair) deadline() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.due()
}

func (p *pair) due() time.Time {
	wait := p.t.Idle
	if p.half {
		wait = p.t.Linger
	}
	return p.start.Add(time.Duration(p.last.Load()) + wait)
}

// await gives the next read of src its deadline.
func (p *pair) await(src *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = src.SetReadDeadline(p.due())
}

// halve makes the direction that is left, which reads src, wait for less from now on.
func (p *pair) halve(src *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touch()
	p.half = true
	_ = src.SetReadDeadline(p.due())
}

// breakOff ends both with a reset: what one of them sent may be missing, and must not look whole.
func breakOff(conns ...*net.TCPConn) {
	for _, c := range conns {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// drain takes what a refused client still sends, within its deadline, so that the answer is not lost to a reset.
func drain(c *net.TCPConn) {
	_ = c.CloseWrite()
	_, _ = io.CopyN(io.Discard, c, chunk)
}
