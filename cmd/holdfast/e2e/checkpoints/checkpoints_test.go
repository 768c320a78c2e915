//go:build e2e

package checkpoints

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/failover/qemu"
	"github.com/holdfast-dr/holdfast/services/failover/qemu/guest"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
)

// patience bounds every wait: emulation on a machine with other work is slow.
const patience = 4 * time.Minute

// needGuest skips a test where a guest with an agent cannot be had, except under CI, where it fails.
func needGuest(t *testing.T) {
	t.Helper()
	err := (&qemu.Driver{}).Check()
	if _, no := os.Stat("/usr/sbin/qemu-ga"); err == nil && no != nil {
		err = fmt.Errorf("qemu-ga is not installed (package qemu-guest-agent)")
	}
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatal(err)
	default:
		t.Skipf("SKIPPED: %v (deploy/debian/install-test-tools.sh)", err)
	}
}

// taken is a checkpoint, and what was acknowledged when it was asked for and when it was there.
type taken struct {
	api.Checkpoint
	before, after uint64
}

// take has every target take one.
func take(t *testing.T, s *sitestest.Sites, c *client, app bool) taken {
	t.Helper()
	kind, args := api.CheckpointCrash, []string{"checkpoint", "create", sitestest.Group, "--label", "test"}
	if app {
		kind, args = api.CheckpointApp, append(args, "--app")
	}
	p := taken{before: c.acked()}
	s.Must(&p.Checkpoint, args...)
	if p.after = c.acked(); p.Kind != kind {
		t.Fatalf("asked for %s, is %+v", kind, p)
	}
	return p
}

// export writes both volumes of a checkpoint to files.
func export(t *testing.T, s *sitestest.Sites, site string, p taken) (files []string) {
	t.Helper()
	s.Listed(site, func(have api.Checkpoint) bool { return have.LSN == p.LSN && have.Kind == p.Kind })
	for _, v := range []string{"data", "log"} {
		files = append(files, filepath.Join(t.TempDir(), v))
		s.Must(nil, "checkpoint", "export", sitestest.Group, strconv.FormatUint(uint64(p.LSN), 10), v, files[len(files)-1], "--site", site)
	}
	return files
}

// needsRecovery reads the flag that says that an ext4 file system's journal has to be replayed (s_feature_incompat of its
// superblock).
func needsRecovery(t *testing.T, file string) bool {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		t.Fatal(err)
	}
	if magic := binary.LittleEndian.Uint16(super[0x38:]); magic != 0xEF53 {
		t.Fatalf("%s is no ext4 file system: magic %#x", file, magic)
	}
	return binary.LittleEndian.Uint32(super[0x60:])&0x4 != 0
}

// checkImages holds exported volumes to the kind of their checkpoint, and their logs to what was acknowledged.
func checkImages(t *testing.T, p taken, files []string) {
	t.Helper()
	var reports []applog.Report
	for _, file := range files {
		if got := needsRecovery(t, file); got != (p.Kind == api.CheckpointCrash) {
			t.Errorf("%s checkpoint %d, %s: its journal needs recovery: %v", p.Kind, p.LSN, filepath.Base(file), got)
		}
		if p.Kind == api.CheckpointApp {
			if out, err := exec.Command("/sbin/e2fsck", "-f", "-n", file).CombinedOutput(); err != nil {
				t.Errorf("e2fsck of %s at application-consistent checkpoint %d: %v\n%s", filepath.Base(file), p.LSN, err, out)
			}
		}
		r, err := guest.VerifyDisk(t.Context(), file)
		if err != nil || !r.PrefixOK {
			t.Fatalf("%s checkpoint %d: %+v, %v", p.Kind, p.LSN, r, err)
		}
		reports = append(reports, r)
	}
	if err := applog.CheckGroup(reports); err != nil {
		t.Errorf("%s checkpoint %d: %v", p.Kind, p.LSN, err)
	}
	if last := reports[1].LastSeq; last < p.before || reports[0].LastSeq > p.after+writers {
		t.Errorf("%s checkpoint %d has records up to %d and %d; acknowledged were %d before and %d after", p.Kind, p.LSN, reports[0].LastSeq, last, p.before, p.after)
	}
}

// TestARealGuestsCheckpoints follows one guest through its life; each boot takes long.
func TestARealGuestsCheckpoints(t *testing.T) {
	needGuest(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	s := sitestest.New(t, sitestest.Options{Product: product, Mode: "sync", VolumeSize: "32MiB", Driver: "qemu", Checkpoints: "{every: 2s, app_every: 10s}"})
	s.Serves("a")
	s.Follows("a", true)
	c := newClient(t, s.VMAddress("a"))
	c.more(20)

	for _, app := range []bool{true, false} { // an application-consistent one is clean, a crash-consistent one is not
		p := take(t, s, c, app)
		checkImages(t, p, export(t, s, "b", p))
	}
	byItself := s.Listed("b", func(p api.Checkpoint) bool { return p.Kind == api.CheckpointApp && p.Label == "" })
	t.Logf("by itself: %+v", byItself)

	frozenByTheDead(t, s, c)

	var points []taken
	for i := range 10 {
		points = append(points, take(t, s, c, i%2 == 0))
		c.more(3)
	}
	pick := points[r.IntN(len(points))]
	c.stop()
	t.Logf("back to checkpoint %d of kind %s, of records %d to %d; %d acknowledged", pick.LSN, pick.Kind, pick.before, pick.after, c.acked())
	s.BackTo("a", "b", pick.Checkpoint)
	c = newClient(t, s.VMAddress("b")) // the guest itself refuses a log that is no prefix
	first := c.more(1)
	if first <= pick.before || first > pick.after+writers+1 {
		t.Fatalf("at checkpoint %+v the guest goes on with record %d", pick, first)
	}

	s.Follows("b", true)
	freeze(t, s, "b") // and then the whole site dies, host agent and all
	s.Kill("b")
	c.stop()
	last := c.acked()
	c = newClient(t, s.VMAddress("a"))
	if got := c.more(1); got <= last {
		t.Fatalf("%d were acknowledged, and the guest goes on with record %d", last, got)
	}
}

// frozenByTheDead freezes the guest as somebody who then dies: the host lets it go on.
func frozenByTheDead(t *testing.T, s *sitestest.Sites, c *client) {
	t.Helper()
	freeze(t, s, "a")
	begin := time.Now()
	c.more(writers + 1) // one of each writer may have been answered before the freeze
	t.Logf("the guest went on %s after it was frozen", time.Since(begin).Round(time.Millisecond))
	mesh := dial(t, s, "a")
	defer mesh.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	told := false
	_ = mesh.Local().FollowEvents(ctx, []string{"hf.v1.evt.a.vm.*.freeze_expired"}, bus.FromStart, func(context.Context, event.Event, event.Fact) {
		told = true
		cancel()
	})
	if !told {
		t.Error("nobody is told that the freeze expired")
	}
}

func dial(t *testing.T, s *sitestest.Sites, site string) *bus.Mesh {
	t.Helper()
	mesh, err := bus.Dial(bus.Config{Site: domain.SiteID(site), Service: "test", URLs: map[domain.SiteID]string{domain.SiteID(site): s.NATS(site)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := mesh.Local().AwaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	return mesh
}

// freeze asks the host at a site to freeze the guest, as the replicator does, for as long as it may, and is gone.
func freeze(t *testing.T, s *sitestest.Sites, site string) {
	t.Helper()
	mesh := dial(t, s, site)
	defer mesh.Close()
	host := api.HostService(domain.HostID(site + "-h1"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		st, err := bus.Call[api.HostStatus](ctx, mesh.Local(), host, api.VerbStatus, api.Empty{})
		if err != nil || len(st.VMs) != 1 {
			t.Fatalf("%+v, %v", st, err)
		}
		_, err = bus.Call[api.Empty](ctx, mesh.Local(), host, api.VerbFreeze,
			api.HostFreezeRequest{VM: sitestest.VM, Group: sitestest.Group, Epoch: st.VMs[0].Epoch, Hold: "the dead", LimitNs: int64(api.MaxFreeze)})
		if err == nil {
			return
		}
		if domain.Code(err) != "conflict" { // a scheduled checkpoint may hold it now
			t.Fatal(err)
		}
	}
}
