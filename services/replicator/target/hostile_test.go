package target

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// hostile is an initiator that breaks every rule, beside one that keeps them.
type hostile struct {
	*bench
	honest *initiator.Session
	base   usage
}

// usage is what the process holds.
type usage struct{ goroutines, descriptors, heapBytes int }

func measureUsage(t testing.TB) usage {
	t.Helper()
	runtime.GC()
	runtime.GC() // pools give their memory back at the second one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return usage{runtime.NumGoroutine(), len(fds), int(m.HeapAlloc)}
}

// TestAHostileInitiatorHurtsNobody lets it do its worst, one act after the other. During each of them a session that keeps
// the rules is served, and after it a new one is; the target has as many goroutines, descriptors and sessions as before, no
// byte of a command, and no more memory than it may keep in its pools.
func TestAHostileInitiatorHurtsNobody(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: floods take their time")
	}
	const budget = 64 << 20
	b := newBench(t, Config{LoginTimeout: 2 * time.Second, WriteTimeout: time.Second, PingInterval: time.Minute, MaxBufferedBytes: budget}, nil)
	h := &hostile{bench: b}
	const other = "iqn.2026-11.test:honest" // a target of its own: who may reset a unit may end the commands of all who share it
	err := b.srv.AddTarget(other, map[int]Unit{0: newMemUnit(16 << 20)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.honest, err = initiator.Dial(t.Context(), fmt.Sprintf("iscsi://%s/%s/0", b.addr, other), initiator.Options{
		Name: "iqn.2026-11.test:honest", Dial: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext})
	if err != nil {
		t.Fatal(err)
	}
	defer h.honest.Close()
	h.serves(t, 0)
	h.base = measureUsage(t)
	for i, act := range hostileActs() {
		t.Run(act.name, func(t *testing.T) {
			h.t = t
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				act.do(h)
			}()
			for during := true; during; {
				select {
				case <-ended:
					during = false
				default:
					h.serves(t, byte(i))
					if n := b.srv.buffered.Load(); n > budget {
						t.Errorf("%d bytes of commands in flight", n)
					}
				}
			}
			if t.Failed() {
				return
			}
			h.settles(t)
		})
	}
}

// serves runs a write and a read of the honest session, in a range of its own at the end of the unit.
func (h *hostile) serves(t *testing.T, seed byte) {
	t.Helper()
	want, got := pattern(seed, 8192), make([]byte, 8192)
	const at = 15 << 20
	if err := h.honest.Write(t.Context(), want, at, false); err != nil {
		t.Fatalf("the honest session: %v", err)
	}
	if err := h.honest.Read(t.Context(), got, at); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the honest session reads other data: %v", err)
	}
}

// settles waits until nothing of the hostile sessions is left, and lets a new honest one in.
func (h *hostile) settles(t *testing.T) {
	t.Helper()
	eventually(t, "sessions or memory of commands stay", func() bool { return len(h.srv.Sessions()) == 1 && h.srv.buffered.Load() == 0 })
	eventually(t, "connections are still counted", func() bool { return h.srv.limits.connections("127.0.0.1") == 0 })
	var now usage
	for end := time.Now().Add(10 * time.Second); ; {
		now = measureUsage(t)
		if now.goroutines <= h.base.goroutines+1 && now.descriptors <= h.base.descriptors && now.heapBytes <= h.base.heapBytes+(32<<20) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the process holds %+v, before %+v", now, h.base)
		}
		time.Sleep(5 * time.Millisecond)
	}
	c := h.login()
	for c.do(iscsi.TestUnitReadyCDB(), 0).status != iscsi.StatusGood { // attentions of resets come first
	}
	_ = c.nc.Close()
	eventually(t, "a session stays", func() bool { return len(h.srv.Sessions()) == 1 })
}
