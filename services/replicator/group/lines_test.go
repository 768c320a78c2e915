package group

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/line"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// byLine has every other test send its frames by lines, always the same: what holds one way must hold the other.
func byLine(test string) bool { return crc32.ChecksumIEEE([]byte(test))%2 == 0 }

// serveLines takes lines at a site until ctx ends, through c.wire if there is one.
func (c *cluster) serveLines(ctx context.Context) *line.Server {
	c.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	address := ln.Addr().String()
	if c.wire != nil {
		address = c.wire.to(address)
	}
	if c.late {
		address = ""
	}
	s := line.NewServer(address, nil, slog.New(slog.DiscardHandler))
	go func() {
		if err := s.Serve(ctx, ln); err != nil {
			c.t.Errorf("lines: %v", err)
		}
	}()
	return s
}

// wire is what lines go through on their way to a site.
type wire struct {
	ln          net.Listener
	forth, back atomic.Bool // nothing passes that way
	shut        atomic.Bool // whoever connects is cut off
	hellos      atomic.Bool // nothing passes but what each end says first

	mu    sync.Mutex
	there string
	tries []time.Time // when somebody connected
	conns []net.Conn
	stall chan struct{} // nothing is read until it is closed; nil: it is
}

func (w *wire) stalls() chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stall
}

// stop has the wire read nothing until the test ends.
func (w *wire) stop(t *testing.T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stall := make(chan struct{})
	w.stall = stall
	t.Cleanup(func() { close(stall) })
}

// wired is a cluster whose lines go through a wire.
func wired(t *testing.T, mode domain.Mode) (*cluster, *wire) {
	t.Helper()
	c, w := wiring(t, mode)
	c.serves()
	return c, w
}

// wiring is a cluster that is to be wired.
func wiring(t *testing.T, mode domain.Mode) (*cluster, *wire) {
	t.Helper()
	c := newCluster(t, mode)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{ln: ln}
	go w.accept()
	t.Cleanup(func() {
		_ = ln.Close()
		w.cut()
	})
	c.lines, c.wire = true, w
	c.def.OnTargetLoss = domain.TargetLossSuspend
	return c, w
}

// serves has a serve and b follow.
func (c *cluster) serves() {
	c.t.Helper()
	c.boot("a", "b") // in this order: b's is the site at the end of the wire
	c.promote("a", 257)
	c.follows("a", "b")
}

func (w *wire) to(address string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.there = address
	return w.ln.Addr().String()
}

func (w *wire) accept() {
	for {
		near, err := w.ln.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.tries = append(w.tries, time.Now())
		if w.shut.Load() {
			_ = near.Close()
			w.mu.Unlock()
			continue
		}
		far, err := net.Dial("tcp", w.there)
		if err != nil {
			_ = near.Close()
			w.mu.Unlock()
			continue
		}
		w.conns = append(w.conns, near, far)
		w.mu.Unlock()
		go w.carry(far, near, &w.forth)
		go w.carry(near, far, &w.back)
	}
}

func (w *wire) carry(to, from net.Conn, stopped *atomic.Bool) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 32<<10)
	for first := true; ; first = false {
		if stall := w.stalls(); stall != nil {
			<-stall
		}
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if !stopped.Load() && (first || !w.hellos.Load()) {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
}

// cut ends every line.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		_ = c.Close()
	}
	w.conns = nil
}

// tried tells when somebody connected so far.
func (w *wire) tried() []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.tries)
}

// byLineNow reports whether what goes to b goes by a line.
func (n *node) byLineNow() bool {
	s := n.g.current()
	if s == nil || s.senders.get("b") == nil {
		return false
	}
	out := s.senders.get("b").lineOut()
	return out != nil && out.line != nil
}

// writes has writers write, each to blocks of its own, and count, until stop.
func (n *node) writes(writers int64) (written *atomic.Int64, stop func()) {
	n.t.Helper()
	u := n.unit(0)
	written = new(atomic.Int64)
	var all sync.WaitGroup
	ended := make(chan struct{})
	for w := range writers {
		all.Go(func() {
			for i := int64(0); ; i++ {
				select {
				case <-ended:
					return
				default:
				}
				if err := <-submit(u, &target.Command{Op: target.OpWrite, Off: (w*64 + i%64) * 4096, Len: 4096, Data: block(uint64(i<<8 | w + 1))}); err != nil {
					n.t.Errorf("writer %d, write %d: %v", w, i, err)
					return
				}
				written.Add(1)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(ended)
		all.Wait()
	})
	n.t.Cleanup(stop)
	return written, stop
}

func TestFramesGoByTheLineInEveryMode(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		t.Run(string(mode), func(t *testing.T) {
			c, _ := wired(t, mode)
			a, b := c.nodes["a"], c.nodes["b"]
			for i := range int64(20) {
				a.write(int(i%2), i*4096, block(uint64(i+1)))
			}
			c.follows("a", "b")
			c.same("a", "b")
			if got, want := b.arrived(), a.g.store.last(); !a.byLineNow() || got != want {
				t.Errorf("by a line: %v, up to %d of %d", a.byLineNow(), got, want)
			}
		})
	}
}

func TestLinesThatAreCutAgainAndAgainLoseNothing(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		t.Run(string(mode), func(t *testing.T) {
			c, w := wiring(t, mode)
			c.pace.LineAgain = 10 * time.Millisecond // one that is cut at once counts as one that carries nothing
			c.serves()
			a := c.nodes["a"]
			written, stop := a.writes(8)
			for range 12 {
				at := written.Load()
				eventually(t, "more is written, by a line", func() bool { return written.Load() > at+50 && a.byLineNow() })
				w.cut()
			}
			stop()
			c.follows("a", "b")
			c.same("a", "b")
			if a.facts.has("target_lost") {
				t.Error("the target counts as lost")
			}
		})
	}
}

func TestWhereNoLineIsToBeHadNATSCarriesTheFrames(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		t.Run(string(mode), func(t *testing.T) {
			c, w := wired(t, mode)
			_ = w.ln.Close() // a firewall
			w.cut()
			a := c.nodes["a"]
			for i := range int64(20) {
				a.write(int(i%2), i*4096, block(uint64(i+1)))
			}
			c.follows("a", "b")
			c.same("a", "b")
			if a.byLineNow() {
				t.Error("there is a line")
			}
		})
	}
}

// What the line swallows is sent again, through NATS: whichever way it carries nothing.
func TestALineThatCarriesNothingIsGivenUp(t *testing.T) {
	for _, mode := range []domain.Mode{domain.ModeSync, domain.ModeAsync} {
		for _, way := range []string{"forth", "back"} {
			t.Run(string(mode)+" "+way, func(t *testing.T) {
				c, w := wired(t, mode)
				a := c.nodes["a"]
				a.write(0, 0, block(1))
				if !a.byLineNow() {
					t.Fatal("there is no line")
				}
				if way == "forth" {
					w.forth.Store(true)
				} else {
					w.back.Store(true)
				}
				began := time.Now()
				for i := range int64(4) {
					a.write(int(i%2), i*4096, block(uint64(i+7)))
				}
				eventually(t, "the line is given up", func() bool {
					a.write(0, 0, block(uint64(time.Since(began))))
					return !a.byLineNow()
				})
				c.follows("a", "b")
				c.same("a", "b")
			})
		}
	}
}

func TestACopyThatHasFailedAcknowledgesNothingByTheLine(t *testing.T) {
	c, _ := wired(t, domain.ModeSync)
	a, b := c.nodes["a"], c.nodes["b"]
	a.write(0, 0, block(1))
	if !a.byLineNow() {
		t.Fatal("there is no line")
	}
	b.g.fail(errors.New("its disk failed"))
	eventually(t, "the line ends", func() bool { return !a.byLineNow() })
	at := b.g.store.last()
	done := submit(a.unit(0), &target.Command{Op: target.OpWrite, Len: 4096, Data: block(2)})
	c.told("a", api.HeldByTarget)
	if answered(done) || b.g.store.last() != at {
		t.Errorf("a failed copy took it: answered %v, %d after %d", answered(done), b.g.store.last(), at)
	}
}

// What comes by the line waits for room in the ring, what comes through NATS for that; and the receiver is to end.
func TestAReceiverEndsWhileWhatCameByTheLineWaitsForRoom(t *testing.T) {
	c, _ := wired(t, domain.ModeAsync)
	a, b := c.nodes["a"], c.nodes["b"]
	a.write(0, 0, block(1))
	raw, err := a.g.store.j.Read(a.g.store.last(), 1) // any will do: it is to wait behind what waits for room
	if err != nil || len(raw) == 0 {
		t.Fatal(err)
	}
	defer b.fills("volume write")()
	for i := range 17 { // MiB, into a ring of 16
		submit(a.unit(0), &target.Command{Op: target.OpWrite, Off: int64(i%8) << 20, Len: 1 << 20, Data: bytes.Repeat(block(uint64(i+1)), 256)})
	}
	eventually(t, "what comes waits for room in the ring", func() bool { return c.heldFor("b", api.HeldByJournal) })
	if _, err := a.g.current().senders.get("b").lineOut().w.Send(t.Context(), raw[0]); err != nil {
		t.Fatal(err)
	}
	fenced := make(chan error, 1)
	go func() { fenced <- b.g.Fence(context.WithoutCancel(t.Context()), 9999) }()
	if err := await(t, fenced); err != nil {
		t.Error(err)
	}
}

func TestASessionEndsWhateverItsLineDoes(t *testing.T) {
	c, w := wired(t, domain.ModeAsync)
	a := c.nodes["a"]
	w.stop(t)
	s := a.g.current()
	for i := range 24 { // MiB, more than sockets take
		submit(a.unit(0), &target.Command{Op: target.OpWrite, Off: int64(i%8) << 20, Len: 1 << 20, Data: bytes.Repeat(block(uint64(i+1)), 256)})
	}
	out := s.senders.get("b").lineOut()
	eventually(t, "a message waits for the socket", func() bool {
		for range 100 {
			if out.mu.TryLock() {
				out.mu.Unlock()
				return false
			}
			time.Sleep(time.Millisecond)
		}
		return true
	})
	began := time.Now()
	s.stop(errOvertaken)
	if d := time.Since(began); d > time.Second {
		t.Errorf("it took %s", d)
	}
}

// An older primary's token is worth nothing once the target follows another epoch, and what it had sent meanwhile is not taken.
func TestALineEndsWithItsEpoch(t *testing.T) {
	c, w := wired(t, domain.ModeAsync)
	c.nodes["a"].write(0, 0, block(1))
	w.mu.Lock()
	there := w.there
	w.mu.Unlock()
	offer := c.nodes["b"].g.lineOffered()
	c.follows("a", "b")
	c.kill("a")
	c.promote("b", 514)
	_, err := line.Dial(t.Context(), "b", line.Offer{Address: there, Token: offer.Token}, nil, func(line.Ack) {})
	if domain.Code(err) != domain.Code(domain.ErrNotFound) {
		t.Errorf("the token of an epoch that is over: %v", err)
	}
}
