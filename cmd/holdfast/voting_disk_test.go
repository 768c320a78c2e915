package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
	"github.com/holdfast-dr/holdfast/services/quorum"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/diskvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/passivetest"
	"github.com/holdfast-dr/holdfast/services/replicator/filevolume"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// lun is an empty LUN of our own target; wrap may make it worse than it is.
func lun(t *testing.T, wrap func(target.Unit) target.Unit) (url, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "votes.img")
	if err := os.WriteFile(file, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return serveFile(t, file, wrap), file
}

// serveLUN is a LUN that holds something.
func serveLUN(t *testing.T, content []byte) (url string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "grown.img")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return serveFile(t, file, asItIs)
}

func serveFile(t *testing.T, file string, wrap func(target.Unit) target.Unit) (url string) {
	t.Helper()
	st, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	v, err := filevolume.Open(file, st.Size(), domain.DurabilityCached)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	srv := target.New(target.Config{})
	if err := srv.AddTarget("iqn.2026-11.test:votes", map[int]target.Unit{0: wrap(v)}, nil); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(ctx, ln)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return "iscsi://" + ln.Addr().String() + "/iqn.2026-11.test:votes/0"
}

func asItIs(u target.Unit) target.Unit { return u }

func votingDisk(t *testing.T, url string) *diskvoter.Disk {
	t.Helper()
	return hastyDisk(t, url, 20*time.Second)
}

// hastyDisk is one whose calls end within timeout.
func hastyDisk(t *testing.T, url string, timeout time.Duration) *diskvoter.Disk {
	t.Helper()
	d := diskvoter.New(t.Context(), url, filepath.Join(t.TempDir(), "pin"), initiator.Options{}, timeout)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func slotOf(t *testing.T, d *diskvoter.Disk, cluster string, group domain.GroupID) *diskvoter.Slot {
	t.Helper()
	s, err := d.Slot(cluster, group)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestADiskOfOurOwnTargetIsAPassiveVoter(t *testing.T) {
	url, _ := lun(t, asItIs)
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
	next := 0
	clients := 1000
	if testing.Short() {
		clients = 100
	}
	passivetest.Run(t, clients, func(t *testing.T, cluster string, group domain.GroupID) passivetest.Records {
		next++
		return slotOf(t, sites[next%len(sites)], cluster, group)
	})
}

// liar answers compare and write without doing it; blind writes without comparing.
type liar struct{ target.Unit }

func (l liar) Submit(c *target.Command, done func(error)) {
	if c.Op == target.OpCompareAndWrite {
		done(nil)
		return
	}
	l.Unit.Submit(c, done)
}

type blind struct{ target.Unit }

func (b blind) Submit(c *target.Command, done func(error)) {
	if c.Op == target.OpCompareAndWrite {
		c.Op, c.Compare = target.OpWrite, nil
	}
	b.Unit.Submit(c, done)
}

func TestADiskThatDoesNotCompareGetsNoVote(t *testing.T) {
	for name, wrap := range map[string]func(target.Unit) target.Unit{
		"says done and does nothing": func(u target.Unit) target.Unit { return liar{u} },
		"writes without comparing":   func(u target.Unit) target.Unit { return blind{u} },
	} {
		t.Run(name, func(t *testing.T) {
			url, _ := lun(t, wrap)
			if err := votingDisk(t, url).Conform(); !errors.Is(err, diskvoter.ErrNonconforming) || !errors.Is(err, domain.ErrRefused) {
				t.Errorf("conform: %v", err)
			}
		})
	}
}

// sluggish holds one command of those that it is for back, until it is let go.
type sluggish struct {
	target.Unit
	of   func(*target.Command) bool
	hold *atomic.Bool
	free chan struct{}
}

func (s sluggish) Submit(c *target.Command, done func(error)) {
	if s.of(c) && s.hold.CompareAndSwap(true, false) {
		own := *c
		own.Compare, own.Data = bytes.Clone(c.Compare), bytes.Clone(c.Data)
		go func() {
			<-s.free
			s.Unit.Submit(&own, done)
		}()
		return
	}
	s.Unit.Submit(c, done)
}

func isCompare(c *target.Command) bool { return c.Op == target.OpCompareAndWrite }

func TestASwapThatADiskIsTooSlowForMayHaveLanded(t *testing.T) {
	slow := sluggish{of: isCompare, hold: new(atomic.Bool), free: make(chan struct{})}
	url, _ := lun(t, func(u target.Unit) target.Unit { slow.Unit = u; return slow })
	s := slotOf(t, hastyDisk(t, url, 5*time.Second), "test", "erp")
	if _, _, err := s.Read(); err != nil {
		t.Fatal(err)
	}
	slow.hold.Store(true)
	if how, err := s.Swap(0, passivetest.Record(1)); how != core.SwapUnknown || !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("swap: %v, %v", how, err)
	}
	close(slow.free)
	other := slotOf(t, votingDisk(t, url), "test", "erp")
	if how, err := other.Swap(0, passivetest.Record(2)); err != nil || how == core.SwapUnknown {
		t.Fatalf("the next swap: %v, %v", how, err)
	}
	if version, _, err := other.Read(); version != 1 || err != nil {
		t.Errorf("one of two swaps over nothing landed, and the version is %d, %v", version, err)
	}
}

// tardy takes its time for each command, as a disk far away does.
type tardy struct {
	target.Unit
	each time.Duration
}

func (d tardy) Submit(c *target.Command, done func(error)) {
	time.Sleep(d.each)
	d.Unit.Submit(c, done)
}

func TestADiskThatIsSlowToOpenIsOpenedForCallersWithoutPatience(t *testing.T) {
	const each = 40 * time.Millisecond
	url, _ := lun(t, func(u target.Unit) target.Unit { return tardy{u, each} })
	// A call has time for three commands; to find out whether the disk may vote takes more.
	d := hastyDisk(t, url, 4*each)
	var wg sync.WaitGroup
	for _, group := range []domain.GroupID{"erp", "crm", "dir"} { // each asks again as soon as it gave up, as votes do
		s := slotOf(t, d, "test", group)
		wg.Go(func() {
			for end := time.Now().Add(time.Minute); ; {
				_, _, err := s.Read()
				switch {
				case err == nil:
					return
				case !errors.Is(err, domain.ErrUnavailable) || time.Now().After(end):
					t.Errorf("group %s: %v", group, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestALUNThatHoldsSomethingElseIsLeftAlone(t *testing.T) {
	for _, at := range []int64{1024, 64 << 10, 900 << 10, 10 << 20} { // ext4's superblock, btrfs', and data where votes would stand
		leftAlone(t, at)
	}
}

func leftAlone(t *testing.T, at int64) {
	t.Helper()
	url, file := lun(t, asItIs)
	data := bytes.Repeat([]byte("somebody's file system "), 100)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, at); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := votingDisk(t, url)
	if err := d.Conform(); !errors.Is(err, diskvoter.ErrForeign) || !errors.Is(err, domain.ErrRefused) {
		t.Errorf("conform: %v", err)
	}
	if _, err := slotOf(t, d, "test", "erp").Swap(0, passivetest.Record(1)); !errors.Is(err, diskvoter.ErrForeign) {
		t.Errorf("swap: %v", err)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was written to (%v)", err)
	}
}

func TestADamagedVoteOnADiskIsNeverVotedOn(t *testing.T) {
	url, file := lun(t, asItIs)
	s := slotOf(t, votingDisk(t, url), "test", "erp")
	if how, err := s.Swap(0, passivetest.Record(1)); how != core.SwapWon || err != nil {
		t.Fatal(how, err)
	}
	all, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(all, []byte("test\x00erp"))
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{all[at+12] ^ 1}, int64(at+12)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Read(); !errors.Is(err, diskvoter.ErrCorrupt) || !errors.Is(err, domain.ErrRefused) {
		t.Errorf("read: %v", err)
	}
	if how, err := s.Swap(1, passivetest.Record(2)); how != core.SwapUnknown || !errors.Is(err, diskvoter.ErrCorrupt) {
		t.Errorf("swap: %v, %v", how, err)
	}
}

func TestAVotingDiskThatIsGoneIsUnavailable(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	passivetest.Unavailable(t, slotOf(t, votingDisk(t, "iscsi://"+ln.Addr().String()+"/iqn.2026-11.test:votes/0"), "test", "erp"))
}

// diskQuorum runs site a's and b's quorum services, whose third vote is a disk, and gives a way to ask and to kill each.
func diskQuorum(t *testing.T, disk string) (campaign func(domain.SiteID, time.Duration) (api.Lease, error), kill func(domain.SiteID)) {
	t.Helper()
	voters := []quorum.Voter{{Member: core.Member{ID: "a", Kind: core.KindNode}, Site: "a"}, {Member: core.Member{ID: "b", Kind: core.KindNode}, Site: "b"},
		{Member: core.Member{ID: "disk", Kind: core.KindDisk}, Path: disk}}
	timing := core.FastTiming()
	timing.G, timing.Renew, timing.Round = 3*time.Second, 500*time.Millisecond, 400*time.Millisecond // for a machine that does ten other things
	urls, servers := map[domain.SiteID]string{}, map[domain.SiteID]*natsd.Server{}
	for _, site := range []domain.SiteID{"a", "b"} {
		srv, err := natsd.Start(natsd.Config{Site: site, Listen: "127.0.0.1:0", StoreDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(srv.Stop)
		urls[site], servers[site] = srv.URL(), srv
	}
	stops, clients := map[domain.SiteID]func(){}, map[domain.SiteID]*bus.Mesh{}
	for i, site := range []domain.SiteID{"a", "b"} {
		ctx, cancel := context.WithCancel(t.Context())
		mesh, client := dialAll(t, site, "quorum", urls), dialAll(t, site, "test", urls)
		if err := client.Local().EnsureAssets(ctx); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		cfg := quorum.Config{Cluster: "test", Site: site, Role: domain.SiteData, Index: i + 1, Rank: i, Dir: t.TempDir(), Model: core.NodeAndDiskMajority, Voters: voters, Timing: timing}
		go func() { ended <- quorum.Run(ctx, cfg, quorum.Deps{Mesh: mesh, BootID: "boot-1"}) }()
		clients[site] = client
		stop := sync.OnceFunc(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("quorum of site %s: %v", site, err)
			}
			mesh.Close()
		})
		stops[site] = stop
		t.Cleanup(stop)
	}
	campaign = func(site domain.SiteID, atMost time.Duration) (api.Lease, error) {
		ctx, cancel := context.WithTimeout(t.Context(), atMost+10*time.Second)
		defer cancel()
		return bus.Call[api.Lease](ctx, clients[site].Local(), api.ServiceQuorum, api.VerbCampaign,
			api.CampaignRequest{Group: "erp", Members: []domain.SiteID{"a", "b"}, TimeoutNs: int64(atMost)})
	}
	return campaign, func(site domain.SiteID) { stops[site](); servers[site].Stop() }
}

func dialAll(t *testing.T, site domain.SiteID, service string, urls map[domain.SiteID]string) *bus.Mesh {
	t.Helper()
	m, err := bus.Dial(bus.Config{Site: site, Service: service, URLs: urls})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	if err := m.Local().AwaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestTheDiskGivesTheSurvivorItsMajority(t *testing.T) {
	url, file := lun(t, asItIs)
	campaign, kill := diskQuorum(t, url)
	first, err := campaign("a", 30*time.Second)
	if err != nil || !first.Held {
		t.Fatalf("site a: %+v, %v", first, err)
	}
	kill("a")
	next, err := campaign("b", 30*time.Second)
	if err != nil || !next.Held || next.Epoch <= first.Epoch {
		t.Fatalf("site b after %s: %+v, %v", first.Epoch, next, err)
	}
	if all, err := os.ReadFile(file); err != nil || !bytes.Contains(all, []byte("test\x00erp")) {
		t.Errorf("no vote is on the disk (%v)", err)
	}
}

func TestWithoutItsDiskAndTheOtherSiteASiteHasNoMajority(t *testing.T) {
	url, _ := lun(t, func(u target.Unit) target.Unit { return liar{u} }) // a disk that swaps nothing grants nothing
	campaign, kill := diskQuorum(t, url)
	kill("b")
	if l, err := campaign("a", 3*time.Second); !errors.Is(err, domain.ErrNoQuorum) {
		t.Errorf("one vote of three: %+v, %v", l, err)
	}
}

func TestAGroupsVoteStaysWhereItIsWhenTheLUNGrows(t *testing.T) {
	url, file := lun(t, asItIs)
	before := slotOf(t, votingDisk(t, url), "test", "erp")
	if how, err := before.Swap(0, passivetest.Record(1)); how != core.SwapWon || err != nil {
		t.Fatal(how, err)
	}
	larger, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	url = serveLUN(t, append(larger, make([]byte, 48<<20)...))
	after := slotOf(t, votingDisk(t, url), "test", "erp")
	if version, rec, err := after.Read(); version != 1 || rec.HB != 1 || err != nil {
		t.Errorf("version %d, heartbeat %d, %v", version, rec.HB, err)
	}
}

func TestAnotherDiskUnderTheSameNameIsRefused(t *testing.T) {
	first, _ := lun(t, asItIs)
	second, _ := lun(t, asItIs)
	pin := filepath.Join(t.TempDir(), "pin")
	for i, url := range []string{first, first, second} {
		d := diskvoter.New(t.Context(), url, pin, initiator.Options{}, 20*time.Second)
		err := d.Conform()
		if i < 2 && err != nil || i == 2 && (!errors.Is(err, diskvoter.ErrOther) || !errors.Is(err, domain.ErrRefused)) {
			t.Errorf("disk %d: %v", i, err)
		}
		_ = d.Close()
	}
}

func TestNoErrorTellsTheSecretOfAVotingDisk(t *testing.T) {
	d := diskvoter.New(t.Context(), "iscsi://votes%topsecret@127.0.0.1:1/iqn.2026-11.test:votes/0", filepath.Join(t.TempDir(), "pin"), initiator.Options{}, 5*time.Second)
	if err := d.Conform(); err == nil || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("%v", err)
	}
}
