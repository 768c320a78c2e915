package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/iscsi"
	"github.com/holdfast-dr/holdfast/pkg/tgtd"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/diskvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/passivetest"
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
			d := diskvoter.New(t.Context(), url, filepath.Join(t.TempDir(), "pin"), initiator.Options{}, timeout)
			t.Cleanup(func() { _ = d.Close() })
			s := slotOf(t, d, "test", "erp")
			for end := time.Now().Add(time.Minute); ; { // a call may be over before the disk is open
				if _, _, err := s.Read(); err == nil {
					break
				} else if time.Now().After(end) {
					t.Fatal(err)
				}
			}
			if how, err := s.Swap(0, passivetest.Record(1)); how != core.SwapWon || err != nil {
				t.Fatalf("swap: %v, %v", how, err)
			}
			stopped := raw(t, url)
			holder, _, err := stopped.Holder(t.Context())
			must(t, err, stopped.Register(t.Context(), votersKey), stopped.Preempt(t.Context(), votersKey, holder, false), stopped.Reserve(t.Context(), votersKey))
			began := time.Now()
			for how := core.SwapUnknown; how != core.SwapWon; { // each call waits as long as it may, as votes do
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
