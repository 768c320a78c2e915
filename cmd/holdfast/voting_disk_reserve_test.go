package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/pkg/tgtd"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/diskvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/passivetest"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// altered is the LUN at url behind a proxy that may change each command on its way.
func altered(t *testing.T, url string, alter func(cdb []byte)) string {
	t.Helper()
	u, err := initiator.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", u.Address)
			if err != nil {
				t.Error(err)
				_ = near.Close()
				return
			}
			mu.Lock()
			open = append(open, near, far)
			mu.Unlock()
			wg.Go(func() { _, _ = io.Copy(near, far); _ = near.Close() })
			wg.Go(func() { forward(far, near, alter); _ = far.Close() })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return strings.Replace(url, u.Address, ln.Addr().String(), 1)
}

// forward copies PDUs (RFC 7143 section 11.2, without digests) and lets alter change the CDB of each SCSI command.
func forward(to io.Writer, from io.Reader, alter func(cdb []byte)) {
	for {
		head := make([]byte, 48)
		if _, err := io.ReadFull(from, head); err != nil {
			return
		}
		rest := make([]byte, int(head[4])*4+(int(head[5])<<16|int(head[6])<<8|int(head[7])+3)&^3)
		if _, err := io.ReadFull(from, rest); err != nil {
			return
		}
		if head[0]&0x3f == 1 {
			alter(head[32:48])
		}
		if _, err := to.Write(append(head, rest...)); err != nil {
			return
		}
	}
}

// withoutCompare takes COMPARE AND WRITE away.
func withoutCompare(cdb []byte) {
	if cdb[0] == iscsi.CompareAndWrite {
		cdb[0] = 0xc1
	}
}

// reservedLUN is an empty LUN of our own target, without COMPARE AND WRITE.
func reservedLUN(t *testing.T) string {
	t.Helper()
	url, _ := lun(t, asItIs)
	return altered(t, url, withoutCompare)
}

func tgtLUN(t *testing.T) string {
	t.Helper()
	return tgtd.Start(t, filepath.Join(t.TempDir(), "votes.img"), 16<<20).URL
}

// lunsWithoutCompare are the targets on which a swap takes a reservation: a strict one, and Debian's tgt, which cannot abort.
func lunsWithoutCompare() map[string]func(*testing.T) string {
	return map[string]func(*testing.T) string{"own target": reservedLUN, "tgt": tgtLUN}
}

func TestADiskWithoutCompareAndWriteIsAPassiveVoter(t *testing.T) {
	for name, open := range lunsWithoutCompare() {
		t.Run(name, func(t *testing.T) {
			url := open(t)
			sites := []*diskvoter.Disk{votingDisk(t, url), votingDisk(t, url), votingDisk(t, url), votingDisk(t, url)}
			var wg sync.WaitGroup
			for _, d := range sites { // all at once, on an empty LUN
				wg.Go(func() {
					if err := d.Conform(); err != nil {
						t.Errorf("conform: %v", err)
					}
				})
			}
			wg.Wait()
			next, clients := 0, 1000
			if testing.Short() {
				clients = 100
			}
			passivetest.Run(t, clients, func(t *testing.T, cluster string, group domain.GroupID) passivetest.Records {
				next++
				return slotOf(t, sites[next%len(sites)], cluster, group)
			})
		})
	}
}

// raw is a session at a LUN, as a voter has one that does what it wants.
func raw(t *testing.T, url string) *initiator.Session {
	t.Helper()
	s, err := initiator.Dial(t.Context(), url, initiator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// opened asks until the disk may vote, which takes more than a call's time where nobody had it reserved.
func opened(t *testing.T, d *diskvoter.Disk) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		err := d.Conform()
		if err == nil {
			return
		}
		if !errors.Is(err, domain.ErrUnavailable) || time.Now().After(end) {
			t.Fatalf("conform: %v", err)
		}
	}
}

// wrest takes the reservation for s, as the voter whose key is left by whoever had it.
func wrest(t *testing.T, s *initiator.Session) {
	t.Helper()
	holder, _, err := s.Holder(t.Context())
	must(t, err, s.Register(t.Context(), votersKey), s.Preempt(t.Context(), votersKey, holder, false), s.Reserve(t.Context(), votersKey))
}

// votersKey is a reservation key as a voter in a swap has one.
const votersKey = 0x4846_564f_0000_0002

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// A client that has the reservation stops between its comparison and its write. It is taken for dead, and what it writes later is
// refused, so that the record is the other's.
func TestAVoterThatStopsWithTheReservationIsShutOut(t *testing.T) {
	t.Parallel()
	for name, open := range lunsWithoutCompare() {
		t.Run(name, func(t *testing.T) {
			timeout := time.Second
			if name == "tgt" {
				if testing.Short() {
					t.Skip("SKIPPED: a target that cannot abort is given five seconds; the full tests run it")
				}
				timeout = 7 * time.Second
			}
			url := open(t)
			d := hastyDisk(t, url, timeout)
			s := slotOf(t, d, "test", "erp")
			opened(t, d)
			if how, err := s.Swap(0, passivetest.Record(1)); how != core.SwapWon || err != nil {
				t.Fatalf("swap: %v, %v", how, err)
			}
			stopped := raw(t, url)
			wrest(t, stopped)
			began := time.Now()
			for how := core.SwapUnknown; how != core.SwapWon; { // each call waits as long as it may, as votes do
				var err error
				if how, err = s.Swap(1, passivetest.Record(2)); time.Since(began) > time.Minute || how == core.SwapLost || err != nil && !errors.Is(err, domain.ErrUnavailable) {
					t.Fatalf("swap while the other has it: %v, %v", how, err)
				}
			}
			if took := time.Since(began); took < timeout {
				t.Errorf("the reservation was taken after %v, when its client may still be in its call", took)
			}
			must(t, stopped.Read(t.Context(), make([]byte, 512), 0)) // and it is not even told, since another command was
			if err := stopped.WriteOnce(t.Context(), bytes.Repeat([]byte{1}, 512), 8192); !errors.Is(err, initiator.ErrReserved) {
				t.Errorf("who was shut out writes: %v", err)
			}
			if version, rec, err := s.Read(); version != 2 || rec.HB != 2 || err != nil {
				t.Errorf("version %d, heartbeat %d, %v", version, rec.HB, err)
			}
		})
	}
}

func TestADiskThatSomebodyElseHasReservedGetsNoVote(t *testing.T) {
	url := reservedLUN(t)
	other := raw(t, url)
	must(t, other.Register(t.Context(), 0xabc), other.Reserve(t.Context(), 0xabc))
	if err := votingDisk(t, url).Conform(); !errors.Is(err, diskvoter.ErrTaken) || !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "0xabc") {
		t.Errorf("conform: %v", err)
	}
	if holder, held, err := other.Holder(t.Context()); holder != 0xabc || !held || err != nil {
		t.Errorf("the reservation: 0x%x, %v, %v", holder, held, err)
	}
}

// Reservations that keep nobody out, and preemptions that shut nobody out, are found before the disk counts.
func TestADiskWhoseReservationsDoNotHoldGetsNoVote(t *testing.T) {
	t.Parallel()
	for name, action := range map[string]byte{"nothing is reserved": iscsi.Reserve, "nobody is preempted": iscsi.Preempt} {
		t.Run(name, func(t *testing.T) {
			url, _ := lun(t, asItIs)
			url = altered(t, url, func(cdb []byte) {
				withoutCompare(cdb)
				if cdb[0] == iscsi.PersistentReserveOut && (cdb[1] == action || action == iscsi.Preempt && cdb[1] == iscsi.PreemptAndAbort) {
					cdb[1], cdb[2] = iscsi.RegisterAndIgnoreExisting, 0
				}
			})
			if err := votingDisk(t, url).Conform(); !errors.Is(err, diskvoter.ErrNonconforming) || !errors.Is(err, domain.ErrRefused) {
				t.Errorf("conform: %v", err)
			}
		})
	}
}

// A site that sees COMPARE AND WRITE has one with the target when a site that sees none reserves the LUN: it was let in before.
func TestACompareThatPassedBeforeTheReservationIsWaitedFor(t *testing.T) {
	t.Parallel()
	slow := sluggish{of: isCompare, hold: new(atomic.Bool), free: make(chan struct{})}
	direct, _ := lun(t, func(u target.Unit) target.Unit { slow.Unit = u; return slow })
	first := slotOf(t, votingDisk(t, direct), "test", "erp")
	if _, _, err := first.Read(); err != nil {
		t.Fatal(err)
	}
	slow.hold.Store(true)
	compared := make(chan core.Swapped, 1)
	landed := make(chan struct{})
	go func() {
		how, _ := first.Swap(0, passivetest.Record(1))
		compared <- how
		close(landed)
	}()
	for slow.hold.Load() {
		time.Sleep(time.Millisecond)
	}
	time.AfterFunc(2*time.Second, func() { close(slow.free) })
	url := altered(t, direct, func(cdb []byte) {
		withoutCompare(cdb)
		if cdb[0] == iscsi.Write16 && bytes.Compare(cdb[2:10], []byte{7: 16}) >= 0 { // the second has compared
			<-landed
		}
	})
	second := slotOf(t, votingDisk(t, url), "test", "erp")
	how, err := second.Swap(0, passivetest.Record(2))
	if one := <-compared; err != nil || one == core.SwapLost || how != core.SwapLost { // it may have been refused its flush
		t.Errorf("who compared: %v; who reserved: %v, %v", one, how, err)
	}
	if version, rec, err := second.Read(); version != 1 || rec.HB != 1 || err != nil {
		t.Errorf("version %d, heartbeat %d, %v", version, rec.HB, err)
	}
	if how, err := first.Swap(1, passivetest.Record(3)); how == core.SwapLost || err == nil && how != core.SwapWon {
		t.Errorf("who compared, of the reserved LUN: %v, %v", how, err)
	}
	if how, err := first.Swap(1, passivetest.Record(3)); how != core.SwapWon || err != nil {
		t.Errorf("who compared, with a reservation: %v, %v", how, err)
	}
}

// isVote reports whether a command writes a block that holds a vote.
func isVote(c *target.Command) bool { return c.Op == target.OpWrite && c.Off >= 8192 }

// The write of a client that died in its swap is with the target for longer than the others' calls take: none may swap before it is over.
func TestAWriteThatADeadClientLeftIsWaitedForByEveryCall(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it waits twenty seconds; task test:slow runs it")
	}
	t.Parallel()
	slow := sluggish{of: isVote, hold: new(atomic.Bool), free: make(chan struct{})}
	direct, _ := lun(t, func(u target.Unit) target.Unit { slow.Unit = u; return slow })
	url := altered(t, direct, withoutCompare)
	dead, alive := hastyDisk(t, url, time.Second), hastyDisk(t, url, time.Second)
	opened(t, dead)
	opened(t, alive)
	slow.hold.Store(true)
	if how, err := slotOf(t, dead, "test", "erp").Swap(0, passivetest.Record(1)); how != core.SwapUnknown {
		t.Fatalf("the swap whose write is held: %v, %v", how, err)
	}
	_ = dead.Close()
	s := slotOf(t, alive, "test", "erp")
	began, released := time.Now(), false
	for {
		how, err := s.Swap(0, passivetest.Record(2))
		if how == core.SwapWon && !released {
			t.Error("the other swapped while the first write was still on its way")
			close(slow.free)
			break
		}
		if how == core.SwapLost && released {
			break
		}
		if released && time.Since(began) > time.Minute {
			t.Fatalf("it is not found: %v, %v", how, err)
		}
		if !released && time.Since(began) > 12*time.Second {
			close(slow.free)
			released = true
		}
	}
	if version, rec, err := s.Read(); err != nil || version != 1 || rec.HB != 1 {
		t.Errorf("version %d, heartbeat %d, %v", version, rec.HB, err)
	}
}

// withoutAbort takes PREEMPT AND ABORT away, too.
func withoutAbort(cdb []byte) {
	withoutCompare(cdb)
	if cdb[0] == iscsi.PersistentReserveOut && cdb[1] == iscsi.PreemptAndAbort {
		cdb[1] = 0x1f
	}
}

// Who waits for what may still land lives: others must not take him for dead in turn, or nobody ever swaps.
func TestWhoWaitsForADeadClientsWritesIsNotTakenForDead(t *testing.T) {
	t.Parallel()
	direct, _ := lun(t, asItIs)
	url := altered(t, direct, withoutAbort)
	opened(t, votingDisk(t, url))
	wrest(t, raw(t, url)) // and dies
	watch, d := raw(t, url), hastyDisk(t, url, time.Second)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		opened(t, d)
	}()
	var last uint64
	var since time.Time
	for waits := true; waits; {
		select {
		case <-ended:
			waits = false
		case <-time.After(5 * time.Millisecond):
		}
		holder, _, err := watch.Holder(t.Context())
		must(t, err)
		switch now := time.Now(); {
		case holder != last:
			last, since = holder, now
		case holder != votersKey && holder&1 == 0 && now.Sub(since) > 1250*time.Millisecond:
			t.Fatalf("the key 0x%x stayed for %v", holder, now.Sub(since))
		}
	}
}

// A probe is slow, and another site takes it for dead: that says nothing of the LUN.
func TestAProbeThatIsTakenForDeadIsNoNonconformance(t *testing.T) {
	t.Parallel()
	direct, _ := lun(t, asItIs)
	other := raw(t, direct)
	var probing, interfered bool
	var mu sync.Mutex
	url := altered(t, direct, func(cdb []byte) {
		withoutCompare(cdb)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case cdb[0] == iscsi.PersistentReserveOut && cdb[1] == iscsi.PreemptAndAbort:
			probing = true
		case cdb[0] == iscsi.PersistentReserveIn && probing && !interfered:
			interfered = true
			holder, _, err := other.Holder(t.Context())
			if err = errors.Join(err, other.Register(t.Context(), votersKey), other.Preempt(t.Context(), votersKey, holder, false), other.Register(t.Context(), votersKey|1)); err != nil {
				t.Error(err)
			}
		}
	})
	d := votingDisk(t, url)
	if err := d.Conform(); !errors.Is(err, domain.ErrUnavailable) || errors.Is(err, domain.ErrRefused) {
		t.Errorf("conform: %v", err)
	}
	opened(t, d)
}
