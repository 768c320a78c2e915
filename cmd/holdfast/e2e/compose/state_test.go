//go:build e2e_compose

package compose

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/demo"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

func other(s domain.SiteID) domain.SiteID {
	if s == "a" {
		return "b"
	}
	return "a"
}

// serving is the site that serves the group, by its own word.
func (f *fleet) serving(ctx context.Context) (domain.SiteID, error) {
	all, err := f.watch.status(ctx)
	if err != nil {
		return "", err
	}
	for _, id := range []domain.SiteID{"a", "b"} {
		if g, ok := all[id].copyAt(); ok && g.Role == domain.RolePrimary && g.Serving {
			return id, nil
		}
	}
	return "", fmt.Errorf("no site serves group %s: %s", group, inWords(all))
}

// whole waits until the installation is as it should be: a site serves the group, a user is answered there, the other site
// protects it and is in the in-sync set, and no run is under way. Nobody helps it.
func (f *fleet) whole(ctx context.Context, at domain.SiteID) error {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	begun := time.Now()
	if _, err := f.user.Await(ctx, func(a demo.Answer) bool { return a.Site == at && a.At.After(begun) }); err != nil {
		return fmt.Errorf("site %s does not answer: %w", at, err)
	}
	return await(ctx, "site "+string(at)+" to serve and "+string(other(at))+" to be in sync", 500*time.Millisecond, func() (bool, string) {
		all, err := f.watch.status(ctx)
		if err != nil {
			return false, err.Error()
		}
		return isWhole(all, at), inWords(all)
	})
}

func isWhole(all map[domain.SiteID]siteStatus, at domain.SiteID) bool {
	primary, ok := all[at].copyAt()
	target, also := all[other(at)].copyAt()
	if !ok || !also || primary.Role != domain.RolePrimary || !primary.Serving || target.Role != domain.RoleTarget || target.Serving ||
		target.Epoch != primary.Epoch {
		return false
	}
	if !slices.ContainsFunc(primary.Targets, func(t api.TargetStatus) bool { return t.State == api.TargetStreaming && t.InSync }) {
		return false
	}
	for _, id := range []domain.SiteID{"a", "b"} {
		if s := all[id]; s.Failover == nil || len(s.Failover.Active) > 0 || len(s.Problems) > 0 {
			return false
		}
	}
	return all["w"].Reachable && len(all["w"].Problems) == 0
}

func inWords(all map[domain.SiteID]siteStatus) string {
	var out []string
	for _, id := range []domain.SiteID{"a", "b", "w"} {
		s := all[id]
		text := fmt.Sprintf("%s reachable %v", id, s.Reachable)
		if g, ok := s.copyAt(); ok {
			text += fmt.Sprintf(" %s epoch %s serving %v", g.Role, g.Epoch, g.Serving)
			for _, t := range g.Targets {
				text += fmt.Sprintf(" target %s %s in sync %v %s", t.Site, t.State, t.InSync, t.Error)
			}
			text += " " + g.Error
		}
		if s.Failover != nil {
			for _, r := range s.Failover.Active {
				text += fmt.Sprintf(" run %s %s %s", r.Kind, r.State, r.Error)
			}
		}
		out = append(out, text+" "+strings.Join(s.Problems, ", "))
	}
	return strings.Join(out, "; ")
}

// ledgers are what every boot of the VM, at every site, wrote down before it acknowledged.
func (f *fleet) ledgers() ([]ledger.Line, error) {
	var lines []ledger.Line
	for _, id := range []domain.SiteID{"a", "b"} {
		p := f.places[id]
		file, err := os.Open(hostagent.LedgerPath(p.files("data", "hosts", string(p.host())), vm))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		more, err := ledger.Parse(file)
		_ = file.Close()
		if err != nil {
			return nil, err
		}
		lines = append(lines, more...)
	}
	slices.SortStableFunc(lines, func(a, b ledger.Line) int { return int(a.ClockNS - b.ClockNS) })
	return lines, nil
}

// judge lets the user rest and holds the disks of the serving site against everything any user was told since the beginning.
func (f *fleet) judge(ctx context.Context, t *testing.T, at domain.SiteID) {
	t.Helper()
	f.rest()
	defer f.work()
	all, err := f.watch.status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := f.ledgers()
	if err != nil {
		t.Fatal(err)
	}
	g, ok := all[at].copyAt()
	if !ok {
		t.Fatalf("site %s has no copy of the group: %s", at, inWords(all))
	}
	disks, err := f.places[at].login(g.Disks)
	if err != nil {
		t.Fatal(err)
	}
	r, err := demo.Judge(ctx, lines, disks)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d writes acknowledged so far, %d of them on the disks of site %s, lost %d", r.WritesAcked, r.WritesFound, at, r.LostWrites)
	if seen := len(f.user.Answers()); seen > r.WritesAcked {
		t.Errorf("the user was told of %d writes, the ledgers have %d", seen, r.WritesAcked)
	}
	if r.LostWrites != 0 {
		t.Errorf("%d acknowledged writes are not on the disks of site %s", r.LostWrites, at)
	}
	if !r.PrefixOK {
		t.Errorf("the log on the disks of site %s is not an unbroken prefix of what was written", at)
	}
	for _, o := range ledger.ServedTwice(lines) {
		t.Errorf("served twice: %s at %s (epoch %s) and %s at %s (epoch %s) for %v", o.A.Instance, o.A.Site, o.A.Epoch, o.B.Instance, o.B.Site, o.B.Epoch, time.Duration(o.OverlapNS))
	}
}

// login puts the CHAP credentials that site init made for a site's VM hosts into the addresses of its volumes.
func (p *place) login(disks []api.Disk) ([]api.Disk, error) {
	secret, err := os.ReadFile(p.files("secrets", "chap", "secret"))
	if err != nil {
		return nil, err
	}
	out := slices.Clone(disks)
	for i, d := range out {
		out[i].URL = strings.Replace(d.URL, "iscsi://", fmt.Sprintf("iscsi://main-%s%%%s@", p.id, strings.TrimSpace(string(secret))), 1)
	}
	return out, nil
}

// longestWait is the longest time in which the user was not answered.
func (f *fleet) longestWait(since time.Time) time.Duration {
	longest, last := time.Duration(0), since
	for _, a := range f.user.Answers() {
		if a.At.After(last) {
			longest, last = max(longest, a.At.Sub(last)), a.At
		}
	}
	return longest
}
