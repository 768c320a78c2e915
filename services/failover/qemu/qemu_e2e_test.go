//go:build e2e

package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/tgtd"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/qemu/guest"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// rig is a disk on a real target and a driver whose guests boot a small static binary.
type rig struct {
	driver *Driver
	target *tgtd.Target
	file   string
	more   []api.Disk // besides the first
	dir    string
	port   int

	mu    sync.Mutex
	lines []ledger.Line
}

func newRig(t *testing.T) *rig {
	tgtd.Need(t, program, "tgtd", "debugfs", "e2fsck", "mkfs.ext4")
	d := &Driver{Cache: t.TempDir(), Exe: filepath.Join(t.TempDir(), "guestinit")}
	if err := d.Check(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: %v", err)
	}
	build := exec.Command("go", "build", "-o", d.Exe, "./internal/guestinit")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "disk")
	r := &rig{driver: d, target: tgtd.Start(t, file, 64<<20), file: file, dir: t.TempDir()}
	ln, err := net.Listen("tcp", "127.77.11.20:0")
	if err != nil {
		t.Fatal(err)
	}
	r.port = ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	return r
}

func (r *rig) start(t *testing.T, counter int) *instance {
	t.Helper()
	begin := time.Now()
	i, err := r.driver.Start(t.Context(), hostagent.Spec{
		VM: "erp-1", Group: "erp", Site: "a", Host: "h1", Epoch: domain.NewEpoch(0, counter, 1), Instance: workload.NewInstance(),
		Disks: append([]api.Disk{{Volume: "data", URL: r.target.URL}}, r.more...), Address: "127.77.11.20", Port: r.port, Dir: r.dir,
		Ledger: func(l ledger.Line) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lines = append(r.lines, l)
			return nil
		},
	})
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(r.dir, ConsoleFile))
		t.Fatalf("%v\n%s", err, console)
	}
	t.Logf("guest up after %s", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(func() { i.Kill("end of the test") })
	return i.(*instance)
}

func (r *rig) append(ctx context.Context) (workload.Ack, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.77.11.20:%d/append", r.port), strings.NewReader("hello"))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return workload.Ack{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		return workload.Ack{}, fmt.Errorf("append: %s", res.Status)
	}
	var a workload.Ack
	return a, json.NewDecoder(res.Body).Decode(&a)
}

func (r *rig) verify(t *testing.T, disk string) (applog.Report, map[uint64]string) {
	t.Helper()
	found := map[uint64]string{}
	rep, err := guest.VerifyDiskWith(t.Context(), disk, applog.Options{Each: func(rec applog.Record, h applog.Hash) { found[rec.Seq] = h.String() }})
	if err != nil {
		t.Fatal(err)
	}
	if !rep.PrefixOK {
		t.Fatalf("%+v", rep)
	}
	return rep, found
}

func TestGuestKeepsEveryAcknowledgedAppendWhenQEMUIsKilled(t *testing.T) {
	r := newRig(t)
	i := r.start(t, 1)
	// Clients append until QEMU is killed from outside, in the middle.
	acked := map[uint64]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	enough := make(chan struct{})
	var once sync.Once
	for range 4 {
		wg.Go(func() {
			for {
				a, err := r.append(t.Context())
				if err != nil {
					return
				}
				mu.Lock()
				acked[a.Seq] = a.Hash
				if len(acked) >= 60 {
					once.Do(func() { close(enough) })
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(time.Minute):
		t.Fatal("fewer than 60 appends in a minute")
	}
	if err := syscall.Kill(i.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-i.Done()
	wg.Wait()
	if i.Err() == nil {
		t.Error("a QEMU that was killed from outside ended without an error")
	}
	rep, found := r.verify(t, r.file)
	for seq, hash := range acked {
		if found[seq] != hash {
			t.Errorf("append %d was acknowledged and is not on the disk", seq)
		}
	}
	t.Logf("acknowledged %d, found %d, torn tail %v", len(acked), rep.LastSeq, rep.TornTail)
	r.checkLedger(t, acked)

	// The next boot goes on where the first was cut, and ends gracefully.
	i = r.start(t, 2)
	a, err := r.append(t.Context())
	if err != nil || a.Seq != rep.LastSeq+1 {
		t.Fatal(a, err)
	}
	begin := time.Now()
	i.Stop(t.Context(), 20*time.Second)
	t.Logf("graceful stop took %s", time.Since(begin).Round(time.Millisecond))
	if i.Err() != nil {
		t.Error(i.Err())
	}
	console, err := os.ReadFile(i.Console())
	if err != nil || !strings.Contains(string(console), "HF-OFF") {
		t.Errorf("the guest did not power itself off: %v", err)
	}
	if rep, _ = r.verify(t, r.target.URL); rep.LastSeq != a.Seq || len(rep.Spans) != 2 {
		t.Fatalf("%+v", rep)
	}
}

// checkLedger holds what the clients saw against what the host wrote down.
func (r *rig) checkLedger(t *testing.T, acked map[uint64]string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := map[uint64]string{}
	for _, l := range r.lines {
		if l.Kind == ledger.KindAck {
			kept[l.Seq] = l.Hash
		}
	}
	for seq, hash := range acked {
		if kept[seq] != hash {
			t.Errorf("append %d was answered and is not in the ledger", seq)
		}
	}
	if twice := ledger.ServedTwice(r.lines); len(twice) > 0 {
		t.Errorf("%+v", twice)
	}
}

// TestGuestWritesItsVolumesInOneOrder kills a guest of two volumes: the second is never ahead of the first, and never
// more than one append behind.
func TestGuestWritesItsVolumesInOneOrder(t *testing.T) {
	r := newRig(t)
	second := filepath.Join(t.TempDir(), "second")
	r.more = append(r.more, api.Disk{Volume: "wal", URL: tgtd.Start(t, second, 64<<20).URL})
	i := r.start(t, 1)
	last := uint64(0)
	for range 20 {
		a, err := r.append(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last = a.Seq
	}
	go func() { _, _ = r.append(t.Context()) }() // one on its way
	i.Kill("in the middle")
	a, _ := r.verify(t, r.file)
	b, _ := r.verify(t, second)
	if err := applog.CheckGroup([]applog.Report{a, b}); err != nil || b.LastSeq < last {
		t.Fatalf("%v; acknowledged %d, found %d and %d", err, last, a.LastSeq, b.LastSeq)
	}
	r.start(t, 2) // the volumes agree with one another
	if ack, err := r.append(t.Context()); err != nil || ack.Seq != a.LastSeq+1 {
		t.Fatal(ack, err)
	}
}

func TestGuestRidesOutTheLossOfItsTarget(t *testing.T) {
	r := newRig(t)
	r.start(t, 1)
	if _, err := r.append(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.target.Kill()
	done := make(chan error, 1)
	go func() { _, err := r.append(t.Context()); done <- err }()
	r.target.Restart(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if rep, _ := r.verify(t, r.file); rep.LastSeq < 2 {
		t.Fatalf("%+v", rep)
	}
}

func TestGuestBootsADynamicallyLinkedBinary(t *testing.T) {
	tgtd.Need(t, "gcc")
	r := newRig(t)
	build := exec.Command("go", "build", "-o", r.driver.Exe, "./internal/guestinit")
	build.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	i := r.start(t, 1)
	if a, err := r.append(t.Context()); err != nil || a.Seq != 1 {
		t.Fatal(a, err)
	}
	i.Stop(t.Context(), 20*time.Second)
	if rep, _ := r.verify(t, r.file); rep.LastSeq != 1 {
		t.Fatalf("%+v", rep)
	}
}

func TestGuestRefusesALowerEpochThanItsLog(t *testing.T) {
	r := newRig(t)
	i := r.start(t, 2)
	if _, err := r.append(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.Kill("moved")
	_, err := r.driver.Start(t.Context(), hostagent.Spec{
		VM: "erp-1", Group: "erp", Site: "a", Host: "h1", Epoch: domain.NewEpoch(0, 1, 1), Instance: workload.NewInstance(),
		Disks: []api.Disk{{Volume: "data", URL: r.target.URL}}, Address: "127.77.11.20", Port: r.port, Dir: r.dir,
		Ledger: func(ledger.Line) error { return nil },
	})
	if err == nil || !strings.Contains(err.Error(), "stale epoch") {
		t.Fatal(err)
	}
}

func TestGuestBootsFromADiskThatWantsCHAP(t *testing.T) {
	r := newRig(t)
	r.target.Guard(t, "main-a", "the right secret")
	held := initiator.CHAP{User: "main-a", Secret: "the wrong secret"}
	r.driver.CHAP = func() initiator.CHAP { return held }
	spec := hostagent.Spec{VM: "erp-1", Site: "a", Host: "h1", Disks: []api.Disk{{Volume: "data", URL: r.target.URL}}, Dir: t.TempDir()}
	if _, err := r.driver.Start(t.Context(), spec); !errors.Is(err, initiator.ErrAuth) || !strings.Contains(err.Error(), "give iscsi.chap in this host's configuration") {
		t.Fatalf("with a wrong secret: %v", err)
	}
	held = initiator.CHAP{User: "main-a", Secret: "the right secret", MutualUser: "target", MutualSecret: "the target's secret"}
	if _, err := r.driver.Start(t.Context(), spec); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), "mutual") {
		t.Fatalf("with mutual CHAP: %v", err)
	}
	held.MutualUser, held.MutualSecret = "", ""
	i := r.start(t, 1)
	if ack, err := r.append(t.Context()); err != nil || ack.Seq != 1 {
		t.Fatal(ack, err)
	}
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", i.Pid())); err != nil || bytes.Contains(line, []byte("the right secret")) {
		t.Errorf("the command line shows the secret: %v", err)
	}
}
