package initiator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

func open(t *testing.T, f *fake, o Options) *Session {
	t.Helper()
	s, err := Dial(t.Context(), f.url(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func pattern(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return b
}

func TestParseURL(t *testing.T) {
	for in, want := range map[string]URL{
		"iscsi://127.0.0.1:3299/iqn.x:y/1":       {Address: "127.0.0.1:3299", Target: "iqn.x:y", LUN: 1},
		"iscsi://host/iqn.x:y/0":                 {Address: "host:3260", Target: "iqn.x:y"},
		"iscsi://[::1]:99/iqn.x:y/0":             {Address: "[::1]:99", Target: "iqn.x:y"},
		"iscsi://[::1]/iqn.x:y/0":                {Address: "[::1]:3260", Target: "iqn.x:y"},
		"iscsi://bob%s%40cret@host:1/iqn.x:y/16": {User: "bob", Secret: "s@cret", Address: "host:1", Target: "iqn.x:y", LUN: 16},
	} {
		got, err := ParseURL(in)
		if err != nil || got != want {
			t.Errorf("%s: %+v %v", in, got, err)
		}
	}
	for _, in := range []string{"", "http://x/y/0", "iscsi://", "iscsi://h/iqn", "iscsi://h/iqn/x", "iscsi://h/iqn/-1", "iscsi:///iqn/0", "iscsi://u@h/iqn/0"} {
		if u, err := ParseURL(in); err == nil {
			t.Errorf("%q was read as %+v", in, u)
		}
	}
}

func TestReadsBackWhatItWrote(t *testing.T) {
	for name, set := range map[string]func(*fake, *Options){
		"plain":          func(*fake, *Options) {},
		"digests":        func(_ *fake, o *Options) { o.HeaderDigest, o.DataDigest = true, true },
		"R2T only":       func(f *fake, _ *Options) { f.initialR2T, f.segment = true, 512 },
		"large segments": func(f *fake, _ *Options) { f.segment = 256 << 10 },
		"small window":   func(f *fake, _ *Options) { f.window = 1 },
		"pings":          func(f *fake, _ *Options) { f.ping = true },
		"CHAP": func(f *fake, o *Options) {
			f.chap = CHAP{User: "bob", Secret: "secretsecret", MutualUser: "target", MutualSecret: "targetsecret"}
			o.CHAP = f.chap
		},
		"CHAP asked for, the target's secret being changed": func(f *fake, o *Options) {
			f.chap = CHAP{User: "bob", Secret: "secretsecret", MutualUser: "target", MutualSecret: "targetsecret"}
			o.CHAP = CHAP{User: "nobody", Secret: "of importance"}
			o.Credentials = func() CHAP {
				return CHAP{User: "bob", Secret: "secretsecret", MutualUser: "target", MutualSecret: "newtargetsecret", MutualOld: "targetsecret"}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			var o Options
			set(f, &o)
			s := open(t, f, o)
			if s.Capacity() != fakeBlocks*fakeBS || s.BlockSize() != fakeBS || s.Serial() != "SN1" || s.Identity().Product != "FAKE" {
				t.Fatalf("identity %+v", s.Identity())
			}
			want := pattern(1_500_000 / 512 * 512)
			if n, err := s.WriteAt(want, 1024); err != nil || n != len(want) {
				t.Fatal(n, err)
			}
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(want))
			if _, err := s.ReadAt(got, 1024); err != nil || !bytes.Equal(got, want) {
				t.Fatal("read differs", err)
			}
			odd := make([]byte, 1000)
			if _, err := s.ReadAt(odd, 1024+333); err != nil || !bytes.Equal(odd, want[333:1333]) {
				t.Fatal("unaligned read differs", err)
			}
			if n, err := s.ReadAt(odd, s.Capacity()-10); n != 10 || !errors.Is(err, io.EOF) {
				t.Fatal("read at the end:", n, err)
			}
		})
	}
}

func TestRefusesWhatIsNotWholeBlocks(t *testing.T) {
	s := open(t, newFake(t), Options{})
	for _, c := range []struct {
		off int64
		n   int
	}{{1, 512}, {0, 100}, {-512, 512}, {s.Capacity(), 512}, {s.Capacity() - 512, 1024}} {
		if err := s.Write(t.Context(), make([]byte, c.n), c.off, false); !errors.Is(err, domain.ErrInvalid) {
			t.Errorf("write %d at %d: %v", c.n, c.off, err)
		}
	}
}

func TestWriteCarriesFUA(t *testing.T) {
	f := newFake(t)
	s := open(t, f, Options{})
	if err := s.Write(t.Context(), make([]byte, 512), 512, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmap(t.Context(), 1024, 2048); err != nil {
		t.Fatal(err)
	}
	if got := f.history(); !slices.Equal(got, []string{"write 1 1 fua=true", "unmap 2 4"}) {
		t.Fatal(got)
	}
}

func TestCompareAndWriteHasOneWinner(t *testing.T) {
	s := open(t, newFake(t), Options{})
	empty := make([]byte, 512)
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			err := s.CompareAndWrite(t.Context(), 4096, empty, bytes.Repeat([]byte{byte(i + 1)}, 512))
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, ErrMiscompare):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d winners", won.Load())
	}
}

func TestConcurrentCallersSeeTheirOwnData(t *testing.T) {
	f := newFake(t)
	f.window = 8
	s := open(t, f, Options{QueueDepth: 16})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			mine := bytes.Repeat([]byte{byte(i)}, 20_480)
			got := make([]byte, len(mine))
			for range 10 {
				off := int64(i) * 20_480
				if err := s.Write(t.Context(), mine, off, false); err != nil {
					t.Error(err)
				}
				if err := s.Read(t.Context(), got, off); err != nil || !bytes.Equal(got, mine) {
					t.Error("read differs", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestWrongCredentialsAreToldApart(t *testing.T) {
	f := newFake(t)
	f.chap = CHAP{User: "bob", Secret: "secretsecret", MutualUser: "target", MutualSecret: "targetsecret"}
	for name, c := range map[string]CHAP{
		"none":         {},
		"wrong secret": {User: "bob", Secret: "anothersecret"},
		"wrong target": {User: "bob", Secret: "secretsecret", MutualUser: "target", MutualSecret: "anothersecret"},
	} {
		if _, err := Dial(t.Context(), f.url(), Options{CHAP: c}); !errors.Is(err, ErrAuth) {
			t.Errorf("%s: %v, want ErrAuth", name, err)
		}
	}
}

func TestBreakFailsEverythingInFlight(t *testing.T) {
	f := newFake(t)
	var writes atomic.Int32
	arrived := make(chan struct{}, 8)
	f.before = func(cdb iscsi.CDB) verdict {
		if cdb[0] != iscsi.Write16 {
			return carryOut
		}
		writes.Add(1)
		arrived <- struct{}{}
		return mute
	}
	s := open(t, f, Options{})
	errs := make(chan error, 8)
	for i := range 8 {
		go func() { errs <- s.Write(t.Context(), make([]byte, 512), int64(i)*512, false) }()
	}
	for range 8 {
		<-arrived
	}
	f.cut()
	for range 8 {
		if err := <-errs; !errors.Is(err, ErrBroken) || !errors.Is(err, ErrAmbiguous) {
			t.Fatalf("%v, want ErrBroken and ErrAmbiguous", err)
		}
	}
	<-s.Done()
	if err := s.Flush(t.Context()); !errors.Is(err, ErrBroken) {
		t.Fatalf("afterwards: %v", err)
	}
	if err := s.Write(t.Context(), make([]byte, 512), 0, false); errors.Is(err, ErrAmbiguous) || !errors.Is(err, ErrBroken) {
		t.Fatalf("a write that was never sent: %v", err)
	}
	if writes.Load() != 8 || f.loginCount() != 1 {
		t.Fatalf("%d writes, %d logins: something was replayed", writes.Load(), f.loginCount())
	}
}

func TestReplaySendsWhatIsOutstandingInItsOrder(t *testing.T) {
	f := newFake(t)
	var mu sync.Mutex
	seen, cutAt := 0, 3
	f.before = func(cdb iscsi.CDB) verdict {
		mu.Lock()
		defer mu.Unlock()
		if cdb[0] != iscsi.Write16 {
			return carryOut
		}
		switch seen++; {
		case seen == cutAt:
			return dropAfter // done, but nobody is told
		case seen > 20:
			return carryOut
		case seen%5 == 0:
			return drop
		}
		return carryOut
	}
	s := open(t, f, Options{Replay: true, QueueDepth: 4})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for round := range 4 {
				if err := s.Write(t.Context(), bytes.Repeat([]byte{byte(i + round + 1)}, 512), int64(i)*512, true); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := make([]byte, 16*512)
	if err := s.Read(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	for i := range 16 {
		if !bytes.Equal(got[i*512:(i+1)*512], bytes.Repeat([]byte{byte(i + 4)}, 512)) {
			t.Errorf("block %d holds %d, want %d", i, got[i*512], i+4)
		}
	}
	if f.loginCount() < 4 {
		t.Fatalf("%d logins: the cuts did not happen", f.loginCount())
	}
}

func TestReplayedQueueKeepsItsOrder(t *testing.T) {
	f := newFake(t)
	f.window = 1
	hold, arrived := make(chan struct{}), make(chan struct{}, 1)
	var first atomic.Bool
	f.before = func(cdb iscsi.CDB) verdict {
		if cdb[0] == iscsi.Write16 && first.CompareAndSwap(false, true) {
			arrived <- struct{}{}
			<-hold
			return drop
		}
		return carryOut
	}
	s := open(t, f, Options{Replay: true})
	var wg sync.WaitGroup
	for i := range 10 {
		cmd := newCommand(iscsi.Write16CDB(uint64(i), 1, false), nil, make([]byte, 512), true)
		if err := s.submit(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() { <-cmd.done })
	}
	<-arrived
	close(hold)
	wg.Wait()
	for i, got := range f.history() {
		if want := fmt.Sprintf("write %d 1 fua=false", i); got != want {
			t.Fatalf("command %d was %q, want %q", i, got, want)
		}
	}
}

func TestCompareAndWriteIsNeverReplayed(t *testing.T) {
	f := newFake(t)
	f.before = func(cdb iscsi.CDB) verdict {
		if cdb[0] == iscsi.CompareAndWrite {
			return dropAfter
		}
		return carryOut
	}
	s := open(t, f, Options{Replay: true})
	err := s.CompareAndWrite(t.Context(), 0, make([]byte, 512), pattern(512))
	if !errors.Is(err, ErrAmbiguous) {
		t.Fatalf("%v, want ErrAmbiguous", err)
	}
	got := make([]byte, 512)
	if err := s.Read(t.Context(), got, 0); err != nil || !bytes.Equal(got, pattern(512)) {
		t.Fatal("the session did not come back", err)
	}
	if h := f.history(); len(h) != 1 {
		t.Fatal(h)
	}
}

func TestWhatIsSentOnceIsNotRepeated(t *testing.T) {
	for name, v := range map[string]verdict{"unit attention": attention, "busy": busy, "break": dropAfter} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			asked := 0
			f.before = func(cdb iscsi.CDB) verdict {
				if cdb[0] != iscsi.Write16 {
					return carryOut
				}
				if asked++; asked > 1 {
					return carryOut
				}
				return v
			}
			s := open(t, f, Options{Replay: true})
			err := s.WriteOnce(t.Context(), pattern(512), 0)
			var status StatusError
			if v == dropAfter && !errors.Is(err, ErrAmbiguous) || v != dropAfter && !errors.As(err, &status) {
				t.Errorf("%v", err)
			}
			if err := s.Read(t.Context(), make([]byte, 512), 0); err != nil {
				t.Fatal(err)
			}
			if f.mu.Lock(); asked != 1 {
				t.Errorf("it was sent %d times", asked)
			}
			f.mu.Unlock()
		})
	}
}

func TestReplayRefusesAnotherDisk(t *testing.T) {
	f := newFake(t)
	f.before = func(cdb iscsi.CDB) verdict {
		if cdb[0] == iscsi.Write16 {
			f.mu.Lock()
			f.serial = "SN2"
			f.mu.Unlock()
			return drop
		}
		return carryOut
	}
	s := open(t, f, Options{Replay: true})
	if err := s.Write(t.Context(), make([]byte, 512), 0, false); !errors.Is(err, ErrOtherDisk) {
		t.Fatalf("%v, want ErrOtherDisk", err)
	}
	if h := f.history(); len(h) != 0 {
		t.Fatalf("written to another disk: %v", h)
	}
}

func TestReplayEndsWithItsTime(t *testing.T) {
	f := newFake(t)
	s := open(t, f, Options{Replay: true, ReplayTimeout: 100 * time.Millisecond})
	f.stop()
	<-s.Done()
	if err := s.Flush(t.Context()); !errors.Is(err, ErrBroken) {
		t.Fatal(err)
	}
}

func TestSilentTargetIsGivenUp(t *testing.T) {
	// A listener that takes the login's connection through a pipe which goes silent afterwards.
	f := newFake(t)
	quiet := &silencer{}
	s := open(t, f, Options{Silence: 20 * time.Millisecond, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		quiet.Conn = c
		return quiet, err
	}})
	quiet.on.Store(true)
	if err := s.Write(t.Context(), make([]byte, 512), 0, false); !errors.Is(err, ErrBroken) {
		t.Fatalf("%v, want ErrBroken", err)
	}
}

// silencer drops what is written once it is on: a black hole.
type silencer struct {
	net.Conn
	on atomic.Bool
}

func (s *silencer) Write(b []byte) (int, error) {
	if s.on.Load() {
		return len(b), nil
	}
	return s.Conn.Write(b)
}

func TestSlowTargetThatAnswersPingsIsKept(t *testing.T) {
	f := newFake(t)
	f.before = func(cdb iscsi.CDB) verdict {
		if cdb[0] == iscsi.Write16 {
			return mute
		}
		return carryOut
	}
	s := open(t, f, Options{Silence: 300 * time.Millisecond, Timeout: time.Second})
	err := s.Write(t.Context(), make([]byte, 512), 0, false)
	if !errors.Is(err, ErrTimeout) || !errors.Is(err, ErrAmbiguous) {
		t.Fatalf("%v, want ErrTimeout and ErrAmbiguous", err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatalf("the connection was given up: %v", err)
	}
}

func TestCancelledReadLeavesTheBufferAlone(t *testing.T) {
	f := newFake(t)
	hold := make(chan struct{})
	started := make(chan struct{}, 1)
	f.before = func(cdb iscsi.CDB) verdict {
		if cdb[0] == iscsi.Read16 {
			started <- struct{}{}
			<-hold
		}
		return carryOut
	}
	copy(f.disk, pattern(4096))
	s := open(t, f, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	buf := make([]byte, 4096)
	done := make(chan error)
	go func() { done <- s.Read(ctx, buf, 0) }()
	<-started
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, ErrAmbiguous) {
		t.Fatal(err)
	}
	for i := range buf {
		buf[i] = 0xcc // a late copy would be a race here
	}
	close(hold)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(buf, bytes.Repeat([]byte{0xcc}, 4096)) {
		t.Fatal("the buffer changed after the call")
	}
}

func TestBusyAndAttentionAreRepeated(t *testing.T) {
	f := newFake(t)
	var n atomic.Int32
	f.before = func(cdb iscsi.CDB) verdict {
		if cdb[0] != iscsi.Write16 {
			return carryOut
		}
		return []verdict{attention, busy, attention, carryOut}[min(n.Add(1)-1, 3)]
	}
	s := open(t, f, Options{})
	if err := s.Write(t.Context(), make([]byte, 512), 0, false); err != nil || n.Load() != 4 {
		t.Fatal(err, n.Load())
	}
}

func TestStatusOtherThanGoodIsAnError(t *testing.T) {
	s := open(t, newFake(t), Options{})
	var st StatusError
	err := statusError(s.exec(t.Context(), iscsi.CDB{0: 0xff}, nil, nil, true))
	if !errors.As(err, &st) || st.Sense.ASC != iscsi.ASCInvalidOpcode {
		t.Fatal(err)
	}
}

func TestEndOfContextCutsTheSessionOff(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	arrived := make(chan struct{}, 1)
	f.before = func(cdb iscsi.CDB) verdict {
		if cdb[0] == iscsi.Write16 {
			arrived <- struct{}{}
			return mute
		}
		return carryOut
	}
	s, err := Dial(ctx, f.url(), Options{Replay: true})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- s.Write(t.Context(), make([]byte, 512), 0, false) }()
	<-arrived
	cancel()
	if err := <-done; !errors.Is(err, ErrClosed) || !errors.Is(err, ErrAmbiguous) {
		t.Fatal(err)
	}
	s.wg.Wait()
}
