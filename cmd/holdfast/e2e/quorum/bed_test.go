//go:build e2e

package quorum

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/demo"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

const (
	askEvery  = 50 * time.Millisecond // each user
	lookEvery = 250 * time.Millisecond
	diskSize  = 512 << 10 // of the witness' votes
	// takenOverIn bounds how long a takeover may take where a majority can decide one, on a machine that has other work.
	takenOverIn = time.Minute
)

// bed is the sites that are struck, and who uses them.
type bed struct {
	*sitestest.Sites
	t      *testing.T
	net    *network
	walls  map[string]*wallClock
	rng    *rand.Rand
	lease  time.Duration
	users  map[string]*demo.User // by the site they ask
	stop   []func()
	copies []string // folders with the witness' votes as they once were, the oldest first
	holder string   // who served before the fault
}

// leases are how long one is granted for, by timing.
var leases = map[string]time.Duration{"default": 6 * time.Second, "fast": 1800 * time.Millisecond}

func newBed(t *testing.T, product, timing string, rng *rand.Rand) *bed {
	t.Helper()
	b := &bed{t: t, net: newNetwork(t), walls: map[string]*wallClock{}, rng: rng, lease: leases[timing], users: map[string]*demo.User{}}
	dir := t.TempDir()
	for _, site := range sites {
		w, err := newWallClock(dir, site)
		if err != nil {
			t.Fatal(err)
		}
		b.walls[site] = w
	}
	b.Sites = sitestest.New(t, sitestest.Options{
		Product: product, Mode: "sync", VolumeSize: "64MiB", Timing: timing, Driver: "embedded", Net: b.net.base, Pause: lookEvery,
		Separate: func(name string, args ...string) *exec.Cmd {
			site, _, _ := strings.Cut(name, "/")
			cmd := b.net.command(site, product, args...)
			cmd.Env = append(os.Environ(), b.walls[site].env())
			return cmd
		},
		Prepare: func(s *sitestest.Sites) { smallDisk(t, s.State("w", "quorum")) },
	})
	for _, site := range dataSites {
		b.users[site] = demo.NewUserAt(b.Address(site), askEvery)
	}
	t.Cleanup(b.pause)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.Fleet.Problems())
			b.keep()
		}
	})
	return b
}

var (
	sites     = []string{"a", "b", "w"}
	dataSites = []string{"a", "b"}
)

func other(site string) string {
	if site == "a" {
		return "b"
	}
	return "a"
}

// smallDisk mounts a file system of its own, which can be filled, where the witness keeps its votes.
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("votes", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", diskSize)); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
}

// keep keeps the sites' logs and ledgers of a test that failed.
func (b *bed) keep() {
	to, err := os.MkdirTemp("", "hf-quorum-logs-")
	if err != nil {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(b.Dir, "*.log"))
	for i, site := range dataSites {
		logs = append(logs, ledgerOf(b.Sites, site))
		_ = exec.Command("cp", logs[len(logs)-1], filepath.Join(to, fmt.Sprintf("%d-%s.jsonl", i, site))).Run()
	}
	_ = exec.Command("cp", append(logs[:len(logs)-len(dataSites)], to)...).Run()
	b.t.Logf("logs kept in %s", to)
}

// work lets the users ask.
func (b *bed) work() {
	for _, u := range b.users {
		b.stop = append(b.stop, u.Start(b.t.Context()))
	}
}

// pause lets none ask, and returns when nothing is under way.
func (b *bed) pause() {
	for _, stop := range b.stop {
		stop()
	}
	b.stop = nil
}

// answered waits until a site's user is answered after a moment.
func (b *bed) answered(site string, after time.Time, within time.Duration) error {
	ctx, cancel := context.WithTimeout(b.t.Context(), within)
	defer cancel()
	_, err := b.users[site].Await(ctx, func(a demo.Answer) bool { return string(a.Site) == site && a.At.After(after) })
	return err
}

// whole waits until a site serves and holds the lease for it, the other site is in sync, every voter answers, and the site's user is
// answered. It notes who serves. (One whose quorum service was started again serves on without a lease until the last one ends.)
func (b *bed) whole() {
	b.t.Helper()
	begun := time.Now()
	b.Until("one site serves under a lease, the other is in sync, and every voter answers", func(g sitestest.Shown) bool {
		b.holder = ""
		for _, site := range dataSites {
			c := g.Copies[site]
			if c.Serving && c.Role == string(domain.RolePrimary) {
				if b.holder != "" {
					b.t.Fatalf("both sites say that they serve: %+v", g)
				}
				b.holder = site
			}
		}
		if b.holder == "" || g.Copies[other(b.holder)].Role != string(domain.RoleTarget) || g.Copies[other(b.holder)].Error != "" {
			return false
		}
		targets := g.Copies[b.holder].Targets
		return len(targets) == 1 && targets[0].State == "streaming" && targets[0].InSync && targets[0].Lag == 0 && b.decided()
	})
	if err := b.answered(b.holder, begun, 4*time.Minute); err != nil {
		b.t.Fatal(err)
	}
}

// decided reports whether the quorum service of every site runs, and that of the site that serves holds the lease and reaches every
// voter. (The others ask none meanwhile.)
func (b *bed) decided() bool {
	all := b.quorums()
	at := all[b.holder]
	return len(all) == len(sites) && slices.ContainsFunc(at.Groups, func(l api.Lease) bool { return l.Group == sitestest.Group && l.Held }) &&
		reaches(at, "a") && reaches(at, "b") && reaches(at, "w")
}

// reaches reports whether a voter answers a site.
func reaches(at api.QuorumStatus, voter string) bool {
	return slices.ContainsFunc(at.Voters, func(v api.VoterStatus) bool { return v.ID == voter && v.Reachable })
}

// quorums are what the quorum services that answer tell, by site.
func (b *bed) quorums() map[string]api.QuorumStatus {
	var st struct {
		Sites []struct {
			Quorum *api.QuorumStatus `json:"quorum"`
		} `json:"sites"`
	}
	out, _ := b.Run("status", "--output", "json") // which fails where a site has a problem, too
	_ = json.Unmarshal(out, &st)                  // nothing that can be read: nobody answers
	all := map[string]api.QuorumStatus{}
	for _, s := range st.Sites {
		if s.Quorum != nil {
			all[string(s.Quorum.Site)] = *s.Quorum
		}
	}
	return all
}

func ledgerOf(s *sitestest.Sites, site string) string {
	return hostagent.LedgerPath(s.State(site, "hosts", site+"-h1"), sitestest.VM)
}

// ledgers are what every boot of the VM, at both sites, wrote down before it acknowledged.
func (b *bed) ledgers() []ledger.Line {
	b.t.Helper()
	var lines []ledger.Line
	for _, site := range dataSites {
		raw, err := os.ReadFile(ledgerOf(b.Sites, site))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			b.t.Fatal(err)
		}
		more, err := ledger.Parse(bytes.NewReader(raw))
		if err != nil {
			b.t.Fatalf("site %s: %v", site, err)
		}
		lines = append(lines, more...)
	}
	slices.SortStableFunc(lines, func(a, b ledger.Line) int { return cmp.Compare(a.ClockNS, b.ClockNS) })
	return lines
}

// proof judges the ledgers, and the disks of the site that serves against them. No user asks meanwhile.
func (b *bed) proof() ([]ledger.Line, error) {
	b.t.Helper()
	b.pause()
	defer b.work()
	lines := b.ledgers()
	if err := judge(lines); err != nil {
		return lines, err
	}
	var disks []api.Disk
	b.Until("the disks of the site that serves", func(g sitestest.Shown) bool {
		disks = g.Copies[b.holder].Disks
		return len(disks) == 2
	})
	g, err := demo.Judge(b.t.Context(), lines, disks)
	switch {
	case err != nil:
		return lines, err
	case g.LostWrites > 0:
		return lines, fmt.Errorf("%d of %d acknowledged writes are missing", g.LostWrites, g.WritesAcked)
	case !g.PrefixOK:
		return lines, errors.New("what is on the disks is no prefix of what was written")
	}
	return lines, nil
}

// faulty has the network be so; a nil one is well.
func (b *bed) faulty(all []deaf) {
	b.t.Helper()
	if err := b.net.set(all); err != nil {
		b.t.Fatal(err)
	}
}

// isolated is a site that neither hears another nor is heard.
func isolated(site string) (all []deaf) {
	for _, o := range sites {
		if o != site {
			all = append(all, cut(site, o)...)
		}
	}
	return all
}

// lasting has the network be so for as long as a fault lasts.
func (b *bed) lasting(all []deaf) {
	b.t.Helper()
	b.faulty(all)
	b.last()
	b.faulty(nil)
}

// last lets a fault last for between 1.2 and 2.5 leases.
func (b *bed) last() { b.leases(1.2 + 1.3*b.rng.Float64()) }

func (b *bed) leases(n float64) {
	select {
	case <-time.After(time.Duration(n * float64(b.lease))): // how long a fault lasts is what it is
	case <-b.t.Context().Done():
	}
}

// takenOver waits until the other site serves, and goes on with the fault for a while.
func (b *bed) takenOver(since time.Time) {
	b.t.Helper()
	if err := b.answered(other(b.holder), since, takenOverIn); err != nil {
		b.t.Fatalf("site %s and the witness are a majority, and %s did not take over: %v", other(b.holder), other(b.holder), err)
	}
	b.leases(b.rng.Float64())
}

// servedSince reports whether a site's user was answered after a moment.
func (b *bed) servedSince(site string, since time.Time) bool {
	return slices.ContainsFunc(b.users[site].Answers(), func(a demo.Answer) bool { return a.At.After(since) })
}

// oneOf draws.
func oneOf[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

func now() int64 { return int64(clock.Now()) }
