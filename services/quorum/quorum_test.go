package quorum_test

import (
	"bytes"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/objecttest"
	"github.com/holdfast-dr/holdfast/services/quorum/objectvoter"
)

func TestALeaseIsGrantedRenewedAndTold(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a := c.sites["a"]
	facts := a.facts()
	l := a.acquire()
	if l.Epoch.Site() != 1 || l.Holder != "a" || len(l.InSync) != 2 || l.RemainingNs <= 0 {
		t.Errorf("lease %+v", l)
	}
	if f := c.next(facts); f.Fact != "epoch_granted" || f.Epoch != l.Epoch || len(f.Voters) < 2 {
		t.Errorf("event %+v, want epoch_granted of %s by two voters", f, l.Epoch)
	}
	_, first, _ := a.lease(l.Epoch)
	c.await("the lease is extended twice over", func() bool {
		got, deadline, err := a.lease(l.Epoch)
		if err != nil || !got.Held {
			t.Fatalf("lease lost without a fault: %+v, %v", got, err)
		}
		return deadline.Sub(first) > c.timing.G
	})
	if got, _, _ := a.lease(l.Epoch - 1); got.Held {
		t.Error("an older epoch counts as held")
	}
	again := a.acquire()
	if again.Epoch != l.Epoch {
		t.Errorf("campaign of the holder answered %s, holds %s", again.Epoch, l.Epoch)
	}
	for _, id := range []domain.SiteID{"b", "w"} {
		if got, _, err := c.sites[id].lease(0); err != nil || got.Held || got.Holder != "a" || got.Epoch != l.Epoch {
			t.Errorf("site %s shows %+v, %v", id, got, err)
		}
	}
}

func TestACutOffHolderIsDeadBeforeAnotherIsGranted(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a, b := c.sites["a"], c.sites["b"]
	l := a.acquire()
	_, last, err := a.lease(l.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	c.isolate("a", true)
	granted := make(chan clock.Time, 1)
	var next api.Lease
	go func() {
		var err error
		if next, err = b.campaign(api.CampaignRequest{}); err != nil {
			t.Errorf("site b: %v", err)
		}
		granted <- clock.Now()
	}()
	var at clock.Time
	for at == 0 {
		got, deadline, err := a.lease(l.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		if got.Held {
			last = max(last, deadline)
		}
		select {
		case at = <-granted:
		case <-time.After(time.Millisecond):
		}
	}
	if got, _, _ := a.lease(0); got.Held {
		t.Error("site a holds after site b was granted")
	}
	if !last.Before(at) {
		t.Errorf("the gates of site a would have been open until %v after the grant", last.Sub(at))
	}
	if next.Epoch <= l.Epoch {
		t.Errorf("epoch %s after %s", next.Epoch, l.Epoch)
	}
	t.Logf("nobody served for %v", at.Sub(last))
	c.isolate("a", false)
	c.await("site a learns of the new holder", func() bool {
		got, _, err := a.lease(0)
		return err == nil && !got.Held && got.Epoch == next.Epoch
	})
}

func TestAPlannedMoveTakesLessThanASecond(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a, b := c.sites["a"], c.sites["b"]
	facts := a.facts()
	l := a.acquire()
	began := time.Now()
	if err := a.release(l.Epoch, "b"); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := a.lease(l.Epoch); got.Held {
		t.Fatal("held after the release")
	}
	next := b.acquire()
	if took := time.Since(began); took > time.Second {
		t.Errorf("the move took %v", took)
	}
	if next.Epoch <= l.Epoch {
		t.Errorf("epoch %s after %s", next.Epoch, l.Epoch)
	}
	if f := c.next(facts); f.Fact != "epoch_granted" {
		t.Errorf("first event %+v", f)
	}
	if f := c.next(facts); f.Fact != "lease_released" || f.Epoch != l.Epoch || f.Reason != "b" {
		t.Errorf("second event %+v, want lease_released", f)
	}
	if err := a.release(l.Epoch, "b"); err != nil {
		t.Errorf("a repeated release: %v", err)
	}
}

func TestAReservationKeepsOthersOut(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a := c.sites["a"]
	l := a.acquire()
	if err := a.release(l.Epoch, "b"); err != nil {
		t.Fatal(err)
	}
	_, err := a.campaign(api.CampaignRequest{TimeoutNs: int64(c.timing.G / 3)})
	if !errors.Is(err, domain.ErrNoQuorum) || !strings.Contains(err.Error(), "is held by") {
		t.Errorf("campaign within the reservation: %v, want no quorum and why", err)
	}
}

func TestARestartedHolderTakesANewEpoch(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a := c.sites["a"]
	l := a.acquire()
	a.kill()
	a.start()
	if got, _, err := a.lease(l.Epoch); err != nil || got.Held || got.Holder != "a" || got.Epoch != l.Epoch {
		t.Errorf("after the restart: %+v, %v; want not held, remembered", got, err)
	}
	if _, err := a.inSync(l.Epoch, 1, "a"); !errors.Is(err, domain.ErrNoLease) {
		t.Errorf("in-sync request under the dead epoch: %v", err)
	}
	began := time.Now()
	next := a.acquire()
	if next.Epoch <= l.Epoch {
		t.Errorf("epoch %s after %s", next.Epoch, l.Epoch)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("its own vote kept it waiting for %v", took)
	}
	above, err := a.campaign(api.CampaignRequest{Above: next.Epoch})
	if err != nil || above.Epoch <= next.Epoch {
		t.Errorf("asked for an epoch above %s: %s, %v", next.Epoch, above.Epoch, err)
	}
	if got, _, _ := a.lease(next.Epoch); got.Held {
		t.Error("the epoch that was left is still held")
	}
}

func TestVotersKeepTheirPromisesOverRestarts(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a, b := c.sites["a"], c.sites["b"]
	l := a.acquire()
	for _, s := range c.sites {
		s.kill()
	}
	c.bootID = "boot-2" // the machines were rebooted as well: nobody remembers for how long the votes were given
	for _, s := range c.sites {
		s.start()
	}
	next := b.acquire()
	if next.Epoch <= l.Epoch {
		t.Errorf("epoch %s after %s", next.Epoch, l.Epoch)
	}
	if got, _, err := a.lease(0); err != nil || got.Held {
		t.Errorf("site a: %+v, %v", got, err)
	}
}

func TestAShrunkenSetIsDurableAndKeepsTheOtherSiteOut(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a, b := c.sites["a"], c.sites["b"]
	l := a.acquire()
	reg, err := a.inSync(l.Epoch, 2, "a")
	if err != nil || len(reg.InSync) != 1 || reg.WriteEpoch != l.Epoch {
		t.Fatalf("shrink: %+v, %v", reg, err)
	}
	if again, err := a.inSync(l.Epoch, 2, "a"); err != nil || again.Seq != reg.Seq {
		t.Errorf("a repeat: %+v, %v", again, err)
	}
	if _, err := a.inSync(l.Epoch, 1, "a", "b"); !errors.Is(err, domain.ErrConflict) {
		t.Errorf("a stale request: %v, want conflict", err)
	}
	if _, err := a.inSync(l.Epoch, 3, "b"); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("a set without the holder: %v, want refused", err)
	}
	a.kill()
	c.isolate("a", true)
	if _, err := b.campaign(api.CampaignRequest{}); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "site b is not in sync") {
		t.Fatalf("site b is not in sync: %v, want refused", err)
	}
	got, err := b.campaign(api.CampaignRequest{AcceptLoss: true, Estimate: "3 writes"})
	if err != nil || len(got.InSync) != 1 || got.InSync[0] != "b" {
		t.Errorf("with the loss accepted: %+v, %v", got, err)
	}
}

func TestANATSRestartLosesNoLease(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a := c.sites["a"]
	l := a.acquire()
	for _, id := range []domain.SiteID{"w", "b"} {
		s := c.sites[id]
		s.nats.Stop()
		s.startNATS()
		_, before, err := a.lease(l.Epoch)
		if err != nil {
			t.Fatal(err)
		}
		c.await("the lease is extended", func() bool {
			got, deadline, err := a.lease(l.Epoch)
			if err != nil || !got.Held {
				t.Fatalf("lease after the restart of %s's server: %+v, %v", id, got, err)
			}
			return deadline.Sub(before) > c.timing.G
		})
	}
}

func TestAnEndedServiceReleasesNothing(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a, b := c.sites["a"], c.sites["b"]
	a.acquire()
	a.kill()
	_, err := b.campaign(api.CampaignRequest{TimeoutNs: int64(c.timing.G / 3)})
	if !errors.Is(err, domain.ErrNoQuorum) {
		t.Errorf("right after the kill site b was answered %v, want no quorum", err)
	}
	b.acquire()
}

func TestACorruptRecordIsRefusedByName(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	a, b, w := c.sites["a"], c.sites["b"], c.sites["w"]
	l := a.acquire()
	w.kill()
	data := w.vote()
	if err := os.WriteFile(w.votePath(), data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	c.await("the status names the corrupt voter", func() bool {
		st, err := bus.Call[api.QuorumStatus](t.Context(), a.client.Local(), api.ServiceQuorum, api.VerbStatus, api.Empty{})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range st.Voters {
			if v.ID == "v-w" {
				return !v.Reachable && strings.Contains(v.Detail, "torn or corrupt")
			}
		}
		return false
	})
	if got, _, err := a.lease(l.Epoch); err != nil || !got.Held {
		t.Errorf("two voters of three are left: %+v, %v", got, err)
	}
	a.kill()
	c.isolate("a", true)
	if _, err := b.campaign(api.CampaignRequest{TimeoutNs: int64(2 * c.timing.G)}); !errors.Is(err, domain.ErrNoQuorum) {
		t.Errorf("one sound voter of three: %v, want no quorum", err)
	}
	after, err := os.ReadFile(w.votePath())
	if err != nil || !bytes.Equal(after, data[:len(data)/2]) {
		t.Errorf("the corrupt file was touched: %v", err)
	}
}

func TestTheShareGivesTheSurvivorItsMajority(t *testing.T) {
	t.Parallel()
	share := t.TempDir()
	voters := []quorum.Voter{node("a"), node("b"), {Member: core.Member{ID: "share", Kind: core.KindShare}, Path: share, Local: true}}
	c := newCluster(t, core.NodeAndShareMajority, voters, "a", "b")
	a, b := c.sites["a"], c.sites["b"]
	l := a.acquire()
	c.await("the share has the vote", func() bool {
		files, err := filepath.Glob(filepath.Join(share, "test", "erp", "v*"))
		return err == nil && len(files) >= 2
	})
	_, last, _ := a.lease(l.Epoch)
	a.kill()
	c.isolate("a", true)
	next := b.acquire()
	at := clock.Now()
	if next.Epoch <= l.Epoch || !last.Before(at) {
		t.Errorf("epoch %s after %s, %v after the old deadline", next.Epoch, l.Epoch, at.Sub(last))
	}
	if took := at.Sub(last); took > 3*time.Second {
		t.Errorf("takeover %v after the old deadline", took)
	}
}

func TestAnObjectGivesTheSurvivorItsMajority(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(objecttest.New())
	t.Cleanup(srv.Close)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("[default]\naws_access_key_id = k\naws_secret_access_key = s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	voters := []quorum.Voter{node("a"), node("b"), {Member: core.Member{ID: "object", Kind: core.KindObject}, Object: objectvoter.Config{Endpoint: srv.URL, Bucket: "votes", Credentials: key}}}
	c := newCluster(t, core.NodeAndShareMajority, voters, "a", "b")
	a, b := c.sites["a"], c.sites["b"]
	l := a.acquire()
	c.await("the object's storage was probed", func() bool {
		st, err := bus.Call[api.QuorumStatus](t.Context(), b.client.Local(), api.ServiceQuorum, api.VerbStatus, api.Empty{})
		return err == nil && st.Voters[2].Conformance == "ok" && st.Voters[2].Reachable
	})
	a.kill()
	c.isolate("a", true)
	if next := b.acquire(); next.Epoch <= l.Epoch {
		t.Errorf("epoch %s after %s", next.Epoch, l.Epoch)
	}
}

func TestARequestThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	c := threeSites(t)
	if _, err := c.sites["w"].campaign(api.CampaignRequest{}); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("a witness was asked to serve: %v", err)
	}
	if _, err := c.sites["a"].campaign(api.CampaignRequest{TimeoutNs: -1}); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("a negative time: %v", err)
	}
	if _, err := c.sites["a"].inSync(1, 1, "a"); !errors.Is(err, domain.ErrNoLease) {
		t.Errorf("in-sync without a lease: %v", err)
	}
}

func TestConfigNamesTheFieldThatCannotBe(t *testing.T) {
	good := quorum.Config{Cluster: "c", Site: "a", Role: domain.SiteData, Index: 1, Dir: "d", Model: core.NodeMajority,
		Voters: []quorum.Voter{node("a"), node("b"), node("c")}, Timing: core.DefaultTiming()}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, spoil := range map[string]func(*quorum.Config){
		"cluster":    func(c *quorum.Config) { c.Cluster = "no name" },
		"role":       func(c *quorum.Config) { c.Role = "" },
		"index":      func(c *quorum.Config) { c.Index = 0 },
		"dir":        func(c *quorum.Config) { c.Dir = "" },
		"once":       func(c *quorum.Config) { c.Voters = append(c.Voters, node("a")) },
		"hosts more": func(c *quorum.Config) { c.Voters[1].Site = "a" },
		"kind":       func(c *quorum.Config) { c.Voters[2].Kind = "" },
		"disk v-c":   func(c *quorum.Config) { c.Voters[2].Kind = core.KindDisk },
		"weight":     func(c *quorum.Config) { c.Voters[2].Weight = new(int); *c.Voters[2].Weight = -1 },
		"path":       func(c *quorum.Config) { c.Voters[2].Kind = core.KindShare },
		"endpoint":   func(c *quorum.Config) { c.Voters[2].Kind = core.KindObject },
		"share":      func(c *quorum.Config) { c.Model = core.NodeAndShareMajority },
		"renew":      func(c *quorum.Config) { c.Timing.Renew = c.Timing.G },
	} {
		bad := good
		bad.Voters = append([]quorum.Voter(nil), good.Voters...)
		spoil(&bad)
		if err := bad.Validate(); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
