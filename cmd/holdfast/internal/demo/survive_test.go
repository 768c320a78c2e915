package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/fleet"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

const (
	survivalLimit = 30 * time.Second // from a process' death until its site serves, and is protected, as before
	afterRestart  = 500 * time.Millisecond
	// longerThanALease is how long a service stays down: no lease and nothing that was asked of it before outlives that.
	longerThanALease = 8 * time.Second
)

// newFleetWorld is three sites, each service a process of its own, up and protected, with clients that write.
func newFleetWorld(ctx context.Context, t *testing.T, seed uint64) (*world, *services) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: three sites of separate processes for a minute or more; run without -short")
	}
	return newTracedFleet(ctx, t, seed, "")
}

// newTracedFleet is newFleetWorld whose traces go to a collector.
func newTracedFleet(ctx context.Context, t *testing.T, seed uint64, otlp string) (*world, *services) {
	t.Helper()
	dir, err := os.MkdirTemp("", "holdfast-survive-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(t.Context(), dir, false)
	if err != nil {
		t.Fatal(err)
	}
	l.otlp = otlp
	f := newServices(t, l)
	w := &world{opts: Options{VM: "embedded", Seed: seed}, l: l, launch: f, rng: rand.New(rand.NewPCG(seed, 1)), clients: map[domain.GroupID]*client{},
		stop: make(chan struct{}), tell: &teller{w: testWriter{t}, begin: time.Now()}, report: &Report{}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("files kept in %s\n%s", dir, f.Problems())
		}
		w.stopClients()
		f.close()
		if w.con != nil {
			w.con.mesh.Close()
		}
		if !t.Failed() {
			_ = os.RemoveAll(dir)
		}
	})
	if w.links, err = openLinks(ctx, l); err != nil {
		t.Fatal(err)
	}
	if _, err := l.writeConfigs("embedded", w.links); err != nil {
		t.Fatal(err)
	}
	if w.con, err = newConsole(l, w.tell); err != nil {
		t.Fatal(err)
	}
	for _, s := range w.con.mesh.Sites() {
		go w.con.follow(ctx, s)
	}
	if err := w.up(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.before(ctx, siteA); err != nil {
		t.Fatal(err)
	}
	return w, f
}

// testWriter tells the story in the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// wellAgain waits until every client is answered at a site after a moment, and both groups are protected at the other.
func (w *world) wellAgain(ctx context.Context, serving, target domain.SiteID, since time.Time) error {
	for _, wl := range workloads() {
		if _, err := w.clients[wl.group].await(ctx, func(a ack) bool { return a.Site == serving && a.at.After(since) }); err != nil {
			return err
		}
	}
	return w.protected(ctx, serving, target)
}

// longestGap is the longest time without an answer since a moment, over all clients.
func (w *world) longestGap(since time.Time) time.Duration {
	var longest time.Duration
	for _, wl := range workloads() {
		last := since
		for _, a := range w.clients[wl.group].all() {
			if a.at.After(last) {
				longest = max(longest, a.at.Sub(last))
				last = a.at
			}
		}
	}
	return longest
}

// count is how many events a site or any told that match.
func (w *world) count(since time.Time, ok func(event.Fact) bool) (n int) {
	for _, s := range w.con.all() {
		if !s.ev.Time.Before(since) && ok(s.fact) {
			n++
		}
	}
	return n
}

func isDisaster(f event.Fact) bool {
	switch f.(type) {
	case *event.DisasterChanged, *event.DisasterDeclared:
		return true
	}
	return false
}

// judgeFleet stops the clients and holds what is on the disks of the serving site against what was acknowledged.
func (w *world) judgeFleet(ctx context.Context, t *testing.T, serving domain.SiteID) {
	t.Helper()
	w.stopClients()
	for _, wl := range workloads() {
		lines, err := w.l.ledgers(wl.vm)
		if err != nil {
			t.Fatal(err)
		}
		log, err := w.readLog(ctx, serving, wl)
		if err != nil {
			t.Fatal(err)
		}
		var g GroupReport
		judge(&g, lines, log)
		t.Logf("%s: %d acknowledged, %d lost, prefix %v, served twice %v", wl.group, g.WritesAcked, g.LostWrites, g.PrefixOK, g.ServedTwice)
		if g.WritesAcked < 20 || !g.PrefixOK || g.ServedTwice || wl.mode == domain.ModeSync && g.LostWrites > 0 {
			t.Errorf("%s: %d acknowledged, %d lost, prefix whole %v (%v %s), served twice %v", wl.group, g.WritesAcked, g.LostWrites, g.PrefixOK, log.err, log.report.Problem, g.ServedTwice)
		}
	}
}

// TestEveryServiceSurvivesAlone kills one process of a running installation after the other. Each time, with no hand on it,
// clients are answered by the same site again and its target protects it again; no death of one process is a disaster.
func TestEveryServiceSurvivesAlone(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	w, f := newFleetWorld(ctx, t, 1)
	var victims []string
	for _, s := range []domain.SiteID{siteA, siteB, siteW} {
		for _, name := range f.names(s) {
			victims = append(victims, fleet.Part(s, name))
		}
		for _, h := range siteHosts[s] {
			victims = append(victims, fleet.Part(s, api.HostService(h)))
		}
	}
	for _, victim := range victims {
		if only := os.Getenv("HOLDFAST_VICTIM"); only != "" && only != victim {
			continue
		}
		ok := t.Run(victim, func(t *testing.T) {
			wait(ctx, afterwards) // so that the deaths do not run into one another
			fault := time.Now()
			vctx, cancel := context.WithTimeout(ctx, survivalLimit)
			defer cancel()
			if err := f.Strike(vctx, victim); err != nil {
				t.Fatal(err)
			}
			if err := w.wellAgain(vctx, siteA, siteB, time.Now().Add(afterRestart)); err != nil {
				t.Fatal(err)
			}
			if err := w.answering(vctx, f); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: well again after %.1f s; the longest wait of a client was %.1f s", victim, time.Since(fault).Seconds(), w.longestGap(fault).Seconds())
			if n := w.count(fault, isDisaster); n != 0 {
				t.Errorf("the death of one process is told as a disaster (%d events)", n)
			}
		})
		if !ok {
			t.FailNow()
		}
	}
	// What was started again must also be able to move everything.
	if _, err := w.move(ctx, api.RunSwitchover, siteA, siteB); err != nil {
		t.Fatal(err)
	}
	w.judgeFleet(ctx, t, siteB)
}

// TestAServiceThatStaysDownIsAnIncident keeps one process of the installation down for longer than a lease lasts, and then lets it
// be started again. Meanwhile it is told as lost, and as an incident, not as a disaster; afterwards all is as it was.
func TestAServiceThatStaysDownIsAnIncident(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	w, f := newFleetWorld(ctx, t, 2)
	for _, c := range []struct {
		site           domain.SiteID
		service, told  string // told: how health names it; empty: its own site cannot tell
		teller, serves domain.SiteID
	}{
		{siteA, api.ServiceDNS, "service/dns", siteA, siteA},
		{siteA, api.ServiceFailover, "service/failover", siteA, siteA},
		{siteA, api.ServiceHealth, "service/health", siteB, siteA},
		{siteA, api.ServiceReplicator, "replicator/replicator", siteA, siteA},
		{siteA, api.ServiceQuorum, "service/quorum", siteA, siteA},
		{siteA, fleet.NATS, "service/nats", siteB, siteA},
		{siteA, api.HostService("a-h1"), "host/a-h1", siteA, siteA},
		{siteB, api.ServiceQuorum, "service/quorum", siteB, siteA},
		{siteB, api.ServiceReplicator, "replicator/replicator", siteB, siteA},
		{siteB, fleet.NATS, "service/nats", siteW, siteA},
		{siteW, api.ServiceQuorum, "service/quorum", siteW, siteA},
		{siteW, fleet.NATS, "service/nats", siteA, siteA},
	} {
		victim := fleet.Part(c.site, c.service)
		if only := os.Getenv("HOLDFAST_VICTIM"); only != "" && only != victim {
			continue
		}
		ok := t.Run(victim, func(t *testing.T) {
			wait(ctx, afterwards)
			fault := time.Now()
			vctx, cancel := context.WithTimeout(ctx, 3*survivalLimit)
			defer cancel()
			release := f.Hold(victim)
			_, err := w.con.await(vctx, "the incident of "+victim, func(s seen) bool {
				i, ok := s.fact.(*event.IncidentChanged)
				return ok && s.site == c.teller && !s.ev.Time.Before(fault) && i.Fact == "opened" && i.Assessment.Site == c.site && slices.Contains(i.Assessment.Objects, c.told)
			})
			told := time.Since(fault)
			wait(vctx, longerThanALease-told)
			release()
			if err != nil {
				t.Fatal(err)
			}
			if err := w.wellAgain(vctx, c.serves, siteB, time.Now().Add(fleet.RestartAfter+afterRestart)); err != nil {
				t.Fatal(err)
			}
			if err := w.answering(vctx, f); err != nil {
				t.Fatal(err)
			}
			if _, err := w.con.await(vctx, "the end of the incident of "+victim, func(s seen) bool {
				i, ok := s.fact.(*event.IncidentChanged)
				return ok && s.site == c.teller && !s.ev.Time.Before(fault) && i.Fact == "closed" && i.Assessment.Site == c.site
			}); err != nil {
				t.Fatal(err)
			}
			if n := w.count(fault, isDisaster); n != 0 {
				t.Errorf("one process that is down is told as a disaster (%d events)", n)
			}
			t.Logf("%s: told after %.1f s; the longest wait of a client was %.1f s", victim, told.Seconds(), w.longestGap(fault).Seconds())
		})
		if !ok {
			t.FailNow()
		}
	}
	w.judgeFleet(ctx, t, siteA)
}

// answering waits until every service of every site answers for its status.
func (w *world) answering(ctx context.Context, f *services) error {
	for _, s := range w.con.mesh.Sites() {
		conn, err := w.con.mesh.Conn(s)
		if err != nil {
			return err
		}
		for _, name := range f.names(s) {
			if name == fleet.NATS || name == api.ServiceDNS { // a name service answers names
				continue
			}
			for {
				_, err := bus.Call[struct{}](ctx, conn, name, api.VerbStatus, api.Empty{})
				if err == nil {
					break
				}
				if ctx.Err() != nil {
					return fmt.Errorf("%s of site %s does not answer: %w", name, s, err)
				}
				wait(ctx, pollEvery)
			}
		}
	}
	return nil
}

// TestFailoverSurvivesTheDeathOf kills one process of the site that takes over, as its run begins.
func TestFailoverSurvivesTheDeathOf(t *testing.T) {
	for i, victim := range []string{fleet.NATS, api.ServiceFailover, api.ServiceReplicator, api.ServiceQuorum, api.ServiceDNS} {
		t.Run(victim, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			w, f := newFleetWorld(ctx, t, uint64(10+i))
			w.writeAWhile(ctx)
			fault := time.Now()
			f.killSite(siteA)
			if _, err := w.con.await(ctx, "the run at site b", func(s seen) bool {
				r, ok := s.fact.(*event.RunChanged)
				return ok && s.site == siteB && r.Run.Kind == api.RunFailover && r.Fact == "started"
			}); err != nil {
				t.Fatal(err)
			}
			wait(ctx, time.Duration(w.rng.Int64N(int64(400*time.Millisecond))))
			if err := f.Strike(ctx, fleet.Part(siteB, victim)); err != nil {
				t.Fatal(err)
			}
			bctx, done := context.WithTimeout(ctx, time.Minute)
			defer done()
			for _, wl := range workloads() {
				a, err := w.clients[wl.group].await(bctx, func(a ack) bool { return a.Site == siteB && a.at.After(fault) })
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s: answered by site b after %.1f s", wl.group, a.at.Sub(fault).Seconds())
			}
			w.settled(bctx, t, siteB)
			w.judgeFleet(ctx, t, siteB)
		})
	}
}

// settled waits until no run is open at a site and every group serves there.
func (w *world) settled(ctx context.Context, t *testing.T, s domain.SiteID) {
	t.Helper()
	last := ""
	for ctx.Err() == nil {
		ok := true
		for _, wl := range workloads() {
			st, err := w.con.replica(ctx, s, wl.group)
			ok = ok && err == nil && st.Serving
			last = fmt.Sprintf("%+v %v", st, err)
		}
		if ok {
			return
		}
		wait(ctx, pollEvery)
	}
	t.Fatalf("groups do not serve at site %s: %s", s, last)
}
