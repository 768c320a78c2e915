package target_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/services/replicator/filevolume"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

const (
	soakVolumes  = 1000
	soakSessions = 200
	soakRegion   = 64 << 10 // bytes at the start of each volume whose content the test knows
	soakRounds   = 4
)

// soak is one target with many volumes, each a file of its own, and what a test knows of their content. A worker has
// volumes of its own, so that it needs no lock.
type soak struct {
	addr    string
	known   [][]byte
	reads   atomic.Int64
	changes atomic.Int64
	begun   atomic.Int64
	cut     atomic.Int64
}

// held is what the process holds when nothing runs.
type held struct {
	goroutines, descriptors int
	bytes                   uint64 // of heap and stacks
}

func measureHeld(t *testing.T) held {
	t.Helper()
	runtime.GC()
	runtime.GC() // pools give their memory back at the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return held{runtime.NumGoroutine(), len(fds), m.HeapAlloc + m.StackInuse}
}

// TestSoak serves 1,000 volumes to 200 sessions that come, work, and go or are cut off, for HOLDFAST_SOAK (a minute). Every
// byte that is read is compared, and between rounds nothing may be left of the sessions that ended. It prints what an idle
// volume and an idle session take.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it takes a minute")
	}
	lasts := time.Minute
	if v := os.Getenv("HOLDFAST_SOAK"); v != "" {
		var err error
		if lasts, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	before := measureHeld(t)
	s := newSoak(t)
	idle := measureHeld(t)
	t.Logf("an idle volume takes %.1f KiB of memory, %.1f descriptors and %.1f goroutines", float64(idle.bytes-before.bytes)/soakVolumes/1024,
		float64(idle.descriptors-before.descriptors)/soakVolumes, float64(idle.goroutines-before.goroutines)/soakVolumes)
	s.measureSessions(t, idle)
	for i := range s.known {
		s.known[i] = make([]byte, soakRegion)
	}
	first := s.settled(t, idle)
	for round := range soakRounds {
		ctx, cancel := context.WithTimeout(t.Context(), lasts/soakRounds)
		var wg sync.WaitGroup
		for w := range soakSessions {
			wg.Go(func() { s.work(ctx, t, w, round) })
		}
		wg.Wait()
		cancel()
		now := s.settled(t, first)
		t.Logf("round %d: %d sessions begun, %d of them cut off, %d reads compared, %d changes; afterwards %d goroutines, %d descriptors, %d KiB",
			round+1, s.begun.Load(), s.cut.Load(), s.reads.Load(), s.changes.Load(), now.goroutines, now.descriptors, now.bytes>>10)
		if t.Failed() {
			return
		}
	}
}

// newSoak makes the volumes and serves them until the test ends.
func newSoak(t *testing.T) *soak {
	t.Helper()
	srv := target.New(target.Config{})
	dir := t.TempDir()
	for i := range soakVolumes {
		path := filepath.Join(dir, fmt.Sprintf("%d.img", i))
		if err := filevolume.Create(path, 1<<30); err != nil {
			t.Fatal(err)
		}
		v, err := filevolume.Open(path, 1<<30, domain.DurabilityCached)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := v.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		if err := srv.AddTarget(soakIQN(i), map[int]target.Unit{0: v}, nil); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return &soak{addr: ln.Addr().String(), known: make([][]byte, soakVolumes)}
}

func soakIQN(volume int) string { return fmt.Sprintf("iqn.2026-11.test:volume%d", volume) }

func (s *soak) dial(ctx context.Context, volume int) (*initiator.Session, error) {
	s.begun.Add(1)
	return initiator.Dial(ctx, fmt.Sprintf("iscsi://%s/%s/0", s.addr, soakIQN(volume)), initiator.Options{LoginTimeout: time.Minute, Timeout: time.Minute})
}

// measureSessions opens all sessions at once and leaves them idle. Of the initiators there is no more than a socket each.
func (s *soak) measureSessions(t *testing.T, idle held) {
	t.Helper()
	var all []net.Conn
	for i := range soakSessions {
		all = append(all, s.bareSession(t, i))
	}
	now := measureHeld(t)
	t.Logf("an idle session takes %.1f KiB of memory and %.1f goroutines", float64(now.bytes-idle.bytes)/soakSessions/1024,
		float64(now.goroutines-idle.goroutines)/soakSessions)
	for _, c := range all {
		_ = c.Close()
	}
}

// bareSession logs in with nothing but a socket.
func (s *soak) bareSession(t *testing.T, volume int) net.Conn {
	t.Helper()
	nc, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	var p iscsi.PDU
	iscsi.Login{Transit: true, CSG: iscsi.StageOperational, NSG: iscsi.StageFullFeature, CmdSN: 1, ISID: [6]byte{0x80}}.Put(&p)
	p.Data = iscsi.Pairs{{Key: "InitiatorName", Value: "iqn.2026-11.test:bare"}, {Key: "TargetName", Value: soakIQN(volume)}}.Encode()
	var b bytes.Buffer
	w := iscsi.NewWriter(&b)
	if err := errors.Join(w.Write(&p), w.Flush()); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(nc, p.BHS[:]); err != nil {
		t.Fatal(err)
	}
	rest := make([]byte, (p.DataLen()+3)&^3)
	if _, err := io.ReadFull(nc, rest); err != nil || iscsi.ParseLoginResponse(&p).Status != iscsi.LoginSuccess {
		t.Fatalf("login: %+v %v", iscsi.ParseLoginResponse(&p), err)
	}
	return nc
}

// settled waits until no more is held than want, but for 64 MiB that pools may keep, and returns what is.
func (s *soak) settled(t *testing.T, want held) held {
	t.Helper()
	end := time.Now().Add(30 * time.Second)
	for {
		now := measureHeld(t)
		if now.goroutines <= want.goroutines && now.descriptors <= want.descriptors && now.bytes <= want.bytes+(64<<20)+soakVolumes*soakRegion {
			return now
		}
		if time.Now().After(end) {
			t.Errorf("held with no session: %+v, before %+v", now, want)
			return now
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// work has one session after the other with the volumes of worker w until ctx ends.
func (s *soak) work(ctx context.Context, t *testing.T, w, round int) {
	rng := rand.New(rand.NewPCG(uint64(w), uint64(round))) //nolint:gosec // a load that can be repeated
	for ctx.Err() == nil {
		volume := w + soakSessions*rng.IntN(soakVolumes/soakSessions)
		life, end := context.WithCancel(t.Context())
		c, err := s.dial(life, volume)
		if err != nil {
			end()
			t.Errorf("volume %d: %v", volume, err)
			return
		}
		for range 20 + rng.IntN(200) {
			if ctx.Err() != nil {
				break
			}
			if err := s.operate(life, c, rng, s.known[volume]); err != nil {
				t.Errorf("volume %d: %v", volume, err)
				break
			}
		}
		if rng.IntN(4) == 0 {
			s.cut.Add(1)
			end() // without a logout
		}
		_ = c.Close()
		end()
		if t.Failed() {
			return
		}
	}
}

// operate does one thing of a mixed load.
func (s *soak) operate(ctx context.Context, c *initiator.Session, rng *rand.Rand, known []byte) error {
	off := rng.IntN(soakRegion/4096) * 4096
	n := min(4096<<rng.IntN(5), soakRegion-off)
	part := known[off : off+n]
	switch rng.IntN(10) {
	case 0:
		return c.Flush(ctx)
	case 1:
		s.changes.Add(1)
		clear(part)
		return c.Unmap(ctx, int64(off), int64(n))
	case 2, 3, 4, 5:
		s.changes.Add(1)
		for i := range part {
			part[i] = byte(rng.Uint32())
		}
		return c.Write(ctx, part, int64(off), rng.IntN(8) == 0)
	}
	s.reads.Add(1)
	got := make([]byte, n)
	if err := c.Read(ctx, got, int64(off)); err != nil {
		return err
	}
	if !bytes.Equal(got, part) {
		return fmt.Errorf("%d bytes at %d are not what was written", n, off)
	}
	return nil
}
