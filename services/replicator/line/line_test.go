package line

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

func TestMessagesAndAcksKeepTheirOrder(t *testing.T) {
	both(t, func(t *testing.T, creds func(domain.SiteID) *identity.Credentials) {
		const messages = 10_000
		r := rand.New(rand.NewPCG(1, 2))
		pool := make([]byte, 64<<10)
		for i := range pool {
			pool[i] = byte(r.Uint32())
		}
		sums := make(chan uint32, messages)
		s, _ := server(t, creds(site))
		n := uint64(0)
		o, closing := s.Open(func(_ context.Context, m []byte) (Ack, error) {
			n++
			if sum := <-sums; sum != crc32.ChecksumIEEE(m) || !vfs.IsAligned(m) {
				t.Errorf("message %d is another, or not on a page", n)
			}
			return Ack{LSN: domain.LSN(n), Frame: n + 1, Time: time.Unix(0, int64(n)), Arrived: domain.LSN(n + 2), Resend: n%2 == 0}, nil
		})
		defer closing()
		acks, all := uint64(0), make(chan struct{})
		c := dialed(t, o, creds(other), func(a Ack) {
			acks++
			want := Ack{LSN: domain.LSN(acks), Frame: acks + 1, Time: time.Unix(0, int64(acks)), Arrived: domain.LSN(acks + 2), Resend: acks%2 == 0}
			if a != want {
				t.Errorf("ack %+v, want %+v", a, want)
			}
			if acks == messages {
				close(all)
			}
		})
		for i := range messages {
			m := make([]byte, 1+r.IntN(16<<10))
			if i%1000 == 0 {
				m = make([]byte, maxMessage)
			} else if i%100 == 0 {
				m = make([]byte, 1+r.IntN(len(pool)))
			}
			copy(m, pool[r.IntN(len(pool)):])
			sums <- crc32.ChecksumIEEE(m)
			if err := c.Send(m); err != nil {
				t.Fatal(err)
			}
			clear(m) // it is the caller's again
		}
		within(t, all, "the last ack")
		if err := c.Err(); err != nil {
			t.Error(err)
		}
	})
}

func TestAnUnknownTokenIsRefusedAndToldOnceAMinute(t *testing.T) {
	both(t, func(t *testing.T, creds func(domain.SiteID) *identity.Credentials) {
		s, said := server(t, creds(site))
		o, closing := s.Open(nil)
		closing() // its token is unknown from here on
		guessed := Offer{Address: o.Address, Token: strings.Repeat("A", tokenBytes)}
		for _, o := range []Offer{o, guessed} {
			if _, err := Dial(t.Context(), site, o, creds(other), nil); !errors.Is(err, domain.ErrNotFound) || !strings.Contains(err.Error(), "rejoin") {
				t.Errorf("%v", err)
			}
		}
		if n := said.count("unknown token"); n != 1 {
			t.Errorf("told %d times", n)
		}
	})
}

func TestWhatIsNoOfferIsInvalid(t *testing.T) {
	if _, err := Dial(t.Context(), site, Offer{Address: "127.0.0.1:1", Token: "short"}, nil, nil); !errors.Is(err, domain.ErrInvalid) {
		t.Error(err)
	}
}

func TestATargetThatIsNotThereIsUnavailable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := Offer{Address: ln.Addr().String(), Token: strings.Repeat("A", tokenBytes)}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // it takes the connection and says nothing
		nc, err := ln.Accept()
		if err == nil {
			_ = read(t, nc, make([]byte, helloBytes))
			cancel()
		}
	}()
	if _, err := Dial(ctx, site, o, nil, nil); !errors.Is(err, domain.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	ln.Close()
	if _, err := Dial(t.Context(), site, o, nil, nil); !errors.Is(err, domain.ErrUnavailable) {
		t.Error(err)
	}
}

func TestASecondConnectionTakesOver(t *testing.T) {
	both(t, func(t *testing.T, creds func(domain.SiteID) *identity.Credentials) {
		s, _ := server(t, creds(site))
		var running atomic.Int32
		taking := make(chan struct{}, 1)
		o, closing := s.Open(func(ctx context.Context, m []byte) (Ack, error) {
			if running.Add(1) != 1 {
				t.Error("take runs twice")
			}
			defer running.Add(-1)
			if m[0] == 1 {
				taking <- struct{}{}
				<-ctx.Done() // another connection came
			}
			return Ack{Frame: uint64(m[0])}, nil
		})
		defer closing()
		first := dialed(t, o, creds(other), func(Ack) {}) // the message is taken, which may be told yet
		if err := first.Send([]byte{1}); err != nil {
			t.Fatal(err)
		}
		within(t, taking, "the first message")
		acks := make(chan Ack, 1)
		second := dialed(t, o, creds(other), func(a Ack) { acks <- a })
		within(t, first.Lost(), "the first connection's end")
		if err := second.Send([]byte{2}); err != nil {
			t.Fatal(err)
		}
		if a := within(t, acks, "the second's ack"); a.Frame != 2 {
			t.Errorf("%+v", a)
		}
		if err := first.Send([]byte{3}); !errors.Is(err, domain.ErrUnavailable) {
			t.Errorf("a lost line sends: %v", err)
		}
	})
}

func TestClosingAnOfferWaitsForTake(t *testing.T) {
	both(t, func(t *testing.T, creds func(domain.SiteID) *identity.Credentials) {
		s, _ := server(t, creds(site))
		taking, let := make(chan struct{}), make(chan struct{})
		var ended atomic.Bool
		calls := 0
		o, closing := s.Open(func(ctx context.Context, _ []byte) (Ack, error) {
			calls++
			close(taking)
			<-ctx.Done()
			<-let
			ended.Store(true)
			return Ack{}, nil
		})
		c := dialed(t, o, creds(other), func(Ack) {})
		for range 3 { // what came is not taken after the end
			if err := c.Send(make([]byte, 8192)); err != nil {
				t.Fatal(err)
			}
		}
		within(t, taking, "the message")
		closed := make(chan bool)
		go func() {
			closing()
			closed <- ended.Load()
		}()
		within(t, c.Lost(), "the line's end")
		select {
		case <-closed:
			t.Fatal("it did not wait for take")
		default:
		}
		close(let)
		if !within(t, closed, "the offer's end") {
			t.Error("it did not wait for take")
		}
		closing() // once more
		if calls != 1 {
			t.Errorf("taken %d times", calls)
		}
	})
}

func TestAnErrorOfTakeEndsTheConnectionAndAnotherMayFollow(t *testing.T) {
	s, _ := server(t, nil)
	broken := true
	o, closing := s.Open(func(context.Context, []byte) (Ack, error) {
		if broken {
			broken = false
			return Ack{}, errors.New("broken")
		}
		return Ack{Frame: 7}, nil
	})
	defer closing()
	acks := make(chan Ack, 1)
	for range 2 {
		c := dialed(t, o, nil, func(a Ack) { acks <- a })
		if err := c.Send([]byte("x")); err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.Lost():
		case <-acks:
			return
		}
	}
	t.Error("not taken")
}

func TestALyingLengthEndsTheConnection(t *testing.T) {
	s, _ := server(t, nil)
	o, closing := s.Open(func(context.Context, []byte) (Ack, error) {
		t.Error("taken")
		return Ack{}, nil
	})
	defer closing()
	for _, n := range []uint32{0, maxMessage + 1, 1 << 31, 1<<32 - 1} {
		nc := shown(t, o)
		if _, err := nc.Write(append(binary.LittleEndian.AppendUint32(nil, n), make([]byte, 8)...)); err != nil {
			t.Fatal(err)
		}
		hangsUp(t, nc)
	}
	for _, h := range []head{{8, 4, 5}, {8, 9, 0}, {8, 0, 9}, {8, 1 << 31, 1 << 31}, {8, 3, 0}} {
		nc, b := shown(t, o), [headBytes]byte{}
		h.put(&b)
		if _, err := nc.Write(b[:]); err != nil {
			t.Fatal(err)
		}
		hangsUp(t, nc)
	}
	c := dialed(t, o, nil, nil)
	for _, n := range []int{0, maxMessage + 1} {
		if err := c.Send(make([]byte, n)); !errors.Is(err, domain.ErrInvalid) || c.Err() != nil {
			t.Errorf("%v; lost %v", err, c.Err())
		}
	}
}

// zeroes, where a head says what is not sent, say that all is.
const zeroes = "\x00\x00\x00\x00\x00\x00\x00\x00"

func TestAMessageThatIsCutIsNotTaken(t *testing.T) {
	s, _ := server(t, nil)
	o, closing := s.Open(func(_ context.Context, m []byte) (Ack, error) {
		if len(m) != 3 {
			t.Errorf("taken: %q", m)
		}
		return Ack{Frame: 1}, nil
	})
	defer closing()
	nc := shown(t, o)
	if _, err := nc.Write([]byte("\x03\x00\x00\x00" + zeroes + "one\x05\x00\x00\x00" + zeroes + "tw")); err != nil {
		t.Fatal(err)
	}
	var b [ackBytes]byte
	if err := read(t, nc, b[:]); err != nil {
		t.Fatal(err)
	}
	if a, err := parseAck(&b); err != nil || a.Frame != 1 || !a.Time.IsZero() {
		t.Errorf("%+v %v", a, err)
	}
	nc.(*net.TCPConn).CloseWrite()
	hangsUp(t, nc)
}

func TestWhatIsNoHelloGetsNoAnswer(t *testing.T) {
	s, _ := server(t, nil)
	o, closing := s.Open(nil)
	defer closing()
	damaged := putHello(o.Token)
	damaged[helloBytes-1] ^= 1
	for _, b := range [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n"), damaged, {22, 3, 1, 2, 0, 1}} {
		nc, err := net.Dial("tcp", o.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.Write(b)
		hangsUp(t, nc)
	}
}

func TestAnotherVersionIsTold(t *testing.T) {
	s, said := server(t, nil)
	o, closing := s.Open(nil)
	defer closing()
	nc, err := net.Dial("tcp", o.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	hello := putHello(o.Token)
	hello[4] = 9
	nc.Write(hello[:versionBytes]) // how it goes on is not known here
	b := make([]byte, 1)
	if err := read(t, nc, b); err != nil || b[0] != otherVersion || said.count("upgrade") != 1 {
		t.Errorf("%v %v", b, err)
	}

	for answer, want := range map[byte]error{otherVersion: domain.ErrRefused, 0x15: domain.ErrRefused} {
		old := answering(t, []byte{answer})
		if _, err := Dial(t.Context(), site, Offer{Address: old, Token: o.Token}, nil, nil); !errors.Is(err, want) {
			t.Errorf("%d: %v", answer, err)
		}
	}
}

// answering is the address of a listener that answers a hello with bytes, and then reads no more.
func answering(t *testing.T, b []byte) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var held sync.WaitGroup
	done := make(chan struct{})
	held.Go(func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		narrow(t, nc)
		if read(t, nc, make([]byte, helloBytes)) == nil {
			nc.Write(b)
		}
		<-done
	})
	t.Cleanup(func() {
		ln.Close()
		close(done)
		held.Wait()
	})
	return ln.Addr().String()
}

func TestAHelloThatDoesNotComeEndsTheConnection(t *testing.T) {
	both(t, func(t *testing.T, creds func(domain.SiteID) *identity.Credentials) {
		s, _ := server(t, creds(site), func(s *Server) { s.helloTimeout = 10 * time.Millisecond })
		nc, err := net.Dial("tcp", s.address)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		hangsUp(t, nc)
	})
}

func TestConnectionsThatOweTheirHelloAreBounded(t *testing.T) {
	s, said := server(t, nil)
	o, closing := s.Open(func(context.Context, []byte) (Ack, error) { return Ack{}, nil })
	defer closing()
	c := dialed(t, o, nil, func(Ack) {}) // one that is through does not count
	for range maxWaiting {
		s.waiting <- struct{}{}
	}
	nc, err := net.Dial("tcp", o.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	hangsUp(t, nc)
	if said.count("too many") != 1 || c.Err() != nil {
		t.Errorf("not told, or the line is lost: %v", c.Err())
	}
	<-s.waiting
	dialed(t, o, nil, func(Ack) {})
}

func TestSendingToAPeerThatDoesNotReadLosesTheLine(t *testing.T) {
	for _, length := range []int{1 << 10, maxMessage} { // however long a message is
		o := Offer{Address: answering(t, []byte{welcome}), Token: strings.Repeat("A", tokenBytes)}
		c := dialed(t, o, nil, nil)
		narrow(t, c.nc)
		c.writeTimeout = 20 * time.Millisecond
		message, err, began := make([]byte, length), error(nil), time.Time{}
		for err == nil {
			began = time.Now()
			err = c.Send(message)
		}
		if !errors.Is(err, domain.ErrUnavailable) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("a message of %d bytes held its sender up for %s", length, took)
		}
	}
}

func TestASenderThatDoesNotReadAcksLosesTheLine(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, _ := serving(t, narrowListener{ln, t}, nil, func(s *Server) { s.writeTimeout = 20 * time.Millisecond })
	o, closing := s.Open(func(context.Context, []byte) (Ack, error) { return Ack{}, nil })
	defer closing()
	nc := shown(t, o)
	narrow(t, nc)
	many := bytes.Repeat([]byte{1, 0, 0, 0, 'x'}, 10_000)
	_ = nc.SetWriteDeadline(time.Now().Add(20 * time.Second))
	for err == nil {
		_, err = nc.Write(many)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it goes on taking messages")
	}
}

func TestADamagedAckLosesTheLine(t *testing.T) {
	var good, damaged, newer [ackBytes]byte
	(&Ack{LSN: 5}).put(&good)
	damaged = good
	damaged[3] ^= 1
	newer = good
	newer[32] = 2
	binary.LittleEndian.PutUint32(newer[36:], crc32.Checksum(newer[:36], castagnoli))
	for _, bad := range [][ackBytes]byte{damaged, newer} {
		o := Offer{Address: answering(t, append(append([]byte{welcome}, good[:]...), bad[:]...)), Token: strings.Repeat("A", tokenBytes)}
		acks := make(chan Ack, 2)
		c := dialed(t, o, nil, func(a Ack) { acks <- a })
		within(t, c.Lost(), "the line's end")
		if err := c.Err(); !errors.Is(err, domain.ErrInvalid) || len(acks) != 1 {
			t.Errorf("%v after %d acks", err, len(acks))
		}
	}
}

func TestClosingALineWaitsForAcked(t *testing.T) {
	both(t, func(t *testing.T, creds func(domain.SiteID) *identity.Credentials) {
		s, _ := server(t, creds(site))
		o, closing := s.Open(func(context.Context, []byte) (Ack, error) { return Ack{}, nil })
		defer closing()
		telling, let := make(chan struct{}), make(chan struct{})
		var ended atomic.Bool
		c := dialed(t, o, creds(other), func(Ack) {
			close(telling)
			<-let
			ended.Store(true)
		})
		if err := c.Send([]byte("x")); err != nil {
			t.Fatal(err)
		}
		within(t, telling, "the ack")
		closed := make(chan bool)
		go func() {
			c.Close()
			closed <- ended.Load()
		}()
		within(t, c.Lost(), "the line's end")
		close(let)
		if !within(t, closed, "Close") {
			t.Error("it did not wait for acked")
		}
		c.Close()
		if err := c.Err(); !errors.Is(err, errClosed) {
			t.Error(err)
		}
	})
}

func TestTheEndOfTheServerEndsItsLines(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := &log{}
	s := NewServer(ln.Addr().String(), nil, newLogger(l))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	o, closing := s.Open(func(ctx context.Context, _ []byte) (Ack, error) { return Ack{}, nil })
	c := dialed(t, o, nil, nil)
	cancel()
	within(t, c.Lost(), "the line's end")
	if err := within(t, ended, "the server's end"); err != nil {
		t.Error(err)
	}
	closing()
}
