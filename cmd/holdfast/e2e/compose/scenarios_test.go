//go:build e2e_compose

package compose

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/demo"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/jaegertest"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

const (
	takeoverLimit = 90 * time.Second // from the fault to the first answer elsewhere; leases are of 6 s
	healLimit     = 2 * time.Minute  // from the end of a fault until the installation is whole
	waitLimit     = 45 * time.Second // that a user waits because one service died
	linkPatience  = 5 * time.Second  // that a user waits where a link is cut that his writes do not need
	quiet         = 15 * time.Second // how long nothing may happen where nothing should
)

// TestSitesInContainers strikes three sites in containers with one fault after the other.
func TestSitesInContainers(t *testing.T) {
	f := raise(t.Context(), t)
	for _, s := range []struct {
		name string
		run  func(*fleet, context.Context, *testing.T)
	}{
		{"every container is confined", (*fleet).confined},
		{"the serving site is cut off from both others", (*fleet).cutOff},
		{"every container of the serving site is taken off the links", (*fleet).disconnected},
		{"every container of the serving site is paused", (*fleet).paused},
		{"every container of the serving site is killed", (*fleet).killed},
		{"NATS at the target is restarted during a failover", (*fleet).restartedWithin},
		{"each service of the serving site dies in turn", (*fleet).oneByOne},
		{"services of the target and of the witness die in turn", (*fleet).othersOneByOne},
		{"only the link from the serving site to the witness is cut", (*fleet).cutFromWitness},
		{"only the link from the target to the witness is cut", (*fleet).cutTargetFromWitness},
		{"only the link between the data sites is cut", (*fleet).cutBetweenData},
		{"the group moves on request", (*fleet).switchedOver},
		{"every container is healthy at the end", (*fleet).healthy},
	} {
		ok := t.Run(s.name, func(t *testing.T) {
			begun := time.Now()
			s.run(f, t.Context(), t)
			t.Logf("%.1f s", time.Since(begun).Seconds())
		})
		if !ok {
			t.Fatal("what follows would be judged by this fault's remains")
		}
	}
}

// takeover strikes the serving site, waits until the other one serves, ends the fault, and waits until the installation is
// whole again, by itself. meanwhile, if any, is done between the fault and the takeover.
func (f *fleet) takeover(ctx context.Context, t *testing.T, strike, mend func(context.Context, *place) error, meanwhile func(context.Context, *place, time.Time) error) {
	t.Helper()
	from, err := f.serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	to := other(from)
	fault := time.Now()
	if err := strike(ctx, f.places[from]); err != nil {
		t.Fatal(err)
	}
	t.Logf("site %s is struck (it took %.1f s)", from, time.Since(fault).Seconds())
	tctx, cancel := context.WithTimeout(ctx, takeoverLimit)
	defer cancel()
	if meanwhile != nil {
		if err := meanwhile(tctx, f.places[to], fault); err != nil {
			t.Fatal(err)
		}
	}
	first, err := f.user.Await(tctx, func(a demo.Answer) bool { return a.Site == to && a.At.After(fault) })
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("a user is answered by site %s, %.1f s after the fault", to, first.At.Sub(fault).Seconds())
	f.story(tctx, t, to, fault)
	f.traced(tctx, t, from, to, fault)
	if err := mend(ctx, f.places[from]); err != nil {
		t.Fatal(err)
	}
	mended := time.Now()
	if err := f.whole(ctx, to); err != nil {
		t.Fatal(err)
	}
	t.Logf("site %s protects the group again, %.1f s after the fault's end", from, time.Since(mended).Seconds())
	f.stoppedFirst(t, from, to, fault)
	f.judge(ctx, t, to)
}

// story checks that whoever follows the events of the site that took over was told the whole of it.
func (f *fleet) story(ctx context.Context, t *testing.T, at domain.SiteID, fault time.Time) {
	t.Helper()
	for _, kind := range []string{"disaster.confirmed", "disaster.declared", "run.started", "group.epoch_granted", "group.promoted", "vm.started", "name.changed", "run.completed"} {
		if _, err := f.watch.await(ctx, kind+" at site "+string(at), of(kind, at, fault)); err != nil {
			t.Errorf("the events do not tell it: %v", err)
		}
	}
}

// traced checks that the failover is one trace in the real Jaeger, from the first missed heartbeat on, with every phase.
func (f *fleet) traced(ctx context.Context, t *testing.T, from, to domain.SiteID, fault time.Time) {
	t.Helper()
	e, err := f.watch.await(ctx, "the failover's end", of("run.completed", to, fault))
	if err != nil {
		t.Fatal(err)
	}
	run, ok := factOf(e).(*event.RunChanged)
	if !ok || run.Run.Kind != api.RunFailover {
		t.Fatalf("the run that was completed is no failover: %s", e.Data)
	}
	want := jaegertest.Failover{Leader: string(to), Lost: string(from), Sites: []string{string(to), "w"}, Evidence: 1}
	for _, e := range f.watch.since(fault) {
		if d, ok := factOf(e).(*event.DisasterChanged); ok && d.Fact == "confirmed" && e.Source == "/site/"+string(to)+"/health" {
			want.First = d.FirstMissed
		}
	}
	tr := f.jaeger.AwaitRun(t, string(run.Run.ID))
	tr.CheckFailover(t, want)
	t.Logf("run %s is trace %s with %d spans", run.Run.ID, tr.ID, len(tr.Spans))
}

// stoppedFirst checks that the last sign of life of the VM where it was is before its first where it is.
func (f *fleet) stoppedFirst(t *testing.T, from, to domain.SiteID, fault time.Time) {
	t.Helper()
	lines, err := f.ledgers()
	if err != nil {
		t.Fatal(err)
	}
	stopped, begun := demo.Handover(lines, from, to, fault)
	if begun == 0 || stopped >= begun {
		t.Errorf("site %s acknowledged until %d, site %s from %d on", from, stopped, to, begun)
	}
	if addr, err := demo.Resolve(t.Context(), []string{f.places[to].authority()}, vmName); err != nil || addr != f.places[to].at(20) {
		t.Errorf("%s is %s at site %s (%v), want %s", vmName, addr, to, err, f.places[to].at(20))
	}
}

func (f *fleet) cutOff(ctx context.Context, t *testing.T) {
	f.takeover(ctx, t, f.isolate, f.rejoin, nil)
}

func (f *fleet) disconnected(ctx context.Context, t *testing.T) {
	f.takeover(ctx, t, f.disconnect, f.reconnect, nil)
}

func (f *fleet) paused(ctx context.Context, t *testing.T) {
	f.takeover(ctx, t,
		func(ctx context.Context, p *place) error { return f.toAll(ctx, p, "pause") },
		func(ctx context.Context, p *place) error { return f.toAll(ctx, p, "unpause") }, nil)
}

func (f *fleet) killed(ctx context.Context, t *testing.T) {
	f.takeover(ctx, t,
		func(ctx context.Context, p *place) error { return f.toAll(ctx, p, "kill", "--signal", "KILL") },
		func(ctx context.Context, p *place) error { return f.toAll(ctx, p, "start") }, nil)
}

func (f *fleet) restartedWithin(ctx context.Context, t *testing.T) {
	restart := func(ctx context.Context, p *place, fault time.Time) error {
		if _, err := f.watch.await(ctx, "the declaration", of("disaster.declared", p.id, fault)); err != nil {
			return err
		}
		c, err := f.container(ctx, p, "nats")
		if err != nil {
			return err
		}
		_, err = docker(ctx, "restart", "--time", "0", c.ID)
		return err
	}
	f.takeover(ctx, t, f.isolate, f.rejoin, restart)
}

// oneByOne lets each service of the serving site die alone: an incident at most, and nothing moves to the other site.
func (f *fleet) oneByOne(ctx context.Context, t *testing.T) {
	at, err := f.serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, service := range []string{"failover", "dns", "health", "quorum", "host", "replicator", "nats"} {
		t.Run(service, func(t *testing.T) { f.dies(ctx, t, at, service, waitLimit) })
	}
}

// othersOneByOne lets those die that the serving site needs: its target, and the vote of the witness.
func (f *fleet) othersOneByOne(ctx context.Context, t *testing.T) {
	at, err := f.serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct {
		site    domain.SiteID
		service string
	}{{other(at), "replicator"}, {other(at), "nats"}, {other(at), "quorum"}, {"w", "nats"}, {"w", "quorum"}} {
		t.Run(string(v.site)+" "+v.service, func(t *testing.T) { f.dies(ctx, t, v.site, v.service, waitLimit) })
	}
}

// dies crashes one service and wants the installation whole again with the serving site where it was.
func (f *fleet) dies(ctx context.Context, t *testing.T, site domain.SiteID, service string, patience time.Duration) {
	t.Helper()
	at, err := f.serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fault := time.Now()
	sctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	if err := f.crash(sctx, f.places[site], service); err != nil {
		t.Fatal(err)
	}
	if site == at {
		f.deathStory(sctx, t, at, service, fault)
	}
	if err := f.whole(ctx, at); err != nil {
		t.Fatal(err)
	}
	wait := f.longestWait(fault)
	t.Logf("%s of site %s: whole again after %.1f s, the user waited %.1f s; the events: %s", service, site, time.Since(fault).Seconds(), wait.Seconds(),
		strings.Join(f.watch.kinds(fault), ", "))
	if wait > patience {
		t.Errorf("the user waited %v, want at most %v", wait, patience)
	}
	f.nothingMoved(t, fault)
	f.judge(ctx, t, at)
}

// deathStory waits until the serving site tells what the death of a service made it do: before that it may still look whole. The
// other services are back before they are missed.
func (f *fleet) deathStory(ctx context.Context, t *testing.T, at domain.SiteID, service string, fault time.Time) {
	t.Helper()
	for _, kind := range map[string][]string{"quorum": {"group.epoch_granted", "group.promoted"}, "replicator": {"group.epoch_granted", "group.promoted"}, "host": {"vm.started"}}[service] {
		if _, err := f.watch.await(ctx, kind+" at site "+string(at), of(kind, at, fault)); err != nil {
			t.Errorf("the events do not tell it: %v", err)
		}
	}
}

// nothingMoved checks that nobody took the fault for a disaster.
func (f *fleet) nothingMoved(t *testing.T, since time.Time) {
	t.Helper()
	for _, e := range f.watch.since(since) {
		if strings.HasPrefix(e.Type, "hf.v1.disaster.") && !strings.HasSuffix(e.Type, ".over") && !strings.HasSuffix(e.Type, ".suspected") {
			t.Errorf("site events tell of a disaster: %s %s", e.Type, e.Data)
		}
		if r, ok := factOf(e).(*event.RunChanged); ok && r.Run.Kind == api.RunFailover && r.Run.Started.After(since) {
			t.Errorf("a failover was begun: run %s at site %s, %s", r.Run.ID, r.Run.Leader, r.Run.Reason)
		}
	}
}

// partial cuts one link, and wants the serving site to go on as if nothing was.
func (f *fleet) partial(ctx context.Context, t *testing.T, pair func(serving domain.SiteID) [2]domain.SiteID, patience time.Duration) {
	t.Helper()
	at, err := f.serving(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fault := time.Now()
	ends := pair(at)
	links := f.between(ends[0], ends[1])
	if err := f.cut(ctx, links); err != nil {
		t.Fatal(err)
	}
	qctx, cancel := context.WithTimeout(ctx, takeoverLimit)
	defer cancel()
	if _, err := f.user.Await(qctx, func(a demo.Answer) bool { return a.Site == at && a.At.After(fault.Add(quiet)) }); err != nil {
		t.Fatal(err)
	}
	wait := f.longestWait(fault)
	if wait > patience {
		t.Errorf("the user waited %v, want at most %v", wait, patience)
	}
	if err := f.toldAsLink(qctx); err != nil {
		t.Error(err)
	}
	f.linkStory(qctx, t, ends, "lost", fault)
	if err := f.heal(ctx, links); err != nil {
		t.Fatal(err)
	}
	mended := time.Now()
	if err := f.whole(ctx, at); err != nil {
		t.Fatal(err)
	}
	hctx, done := context.WithTimeout(ctx, healLimit)
	defer done()
	f.linkStory(hctx, t, ends, "recovered", mended)
	t.Logf("site %s served all along, the user waited %.1f s at most", at, wait.Seconds())
	f.nothingMoved(t, fault)
	f.judge(ctx, t, at)
}

// toldAsLink waits until a site says that a link is cut: the proof that the cut is one, and that it is taken for what it is.
func (f *fleet) toldAsLink(ctx context.Context) error {
	return await(ctx, "a site to tell of a cut link", 500*time.Millisecond, func() (bool, string) {
		all, err := f.watch.status(ctx)
		if err != nil {
			return false, err.Error()
		}
		told := ""
		for _, s := range all {
			if s.Health == nil {
				continue
			}
			for _, a := range s.Health.Assessments {
				told += string(s.Site) + " of " + string(a.Site) + ": " + a.Class + "; "
			}
			if slices.ContainsFunc(s.Health.Assessments, func(a api.Assessment) bool { return a.Class == api.ClassWAN }) {
				return true, ""
			}
		}
		return false, told
	})
}

// linkStory checks that the sites at both ends of a link told what became of it.
func (f *fleet) linkStory(ctx context.Context, t *testing.T, ends [2]domain.SiteID, fact string, since time.Time) {
	t.Helper()
	for i, teller := range ends {
		far, told := ends[1-i], of("link."+fact, teller, since)
		if _, err := f.watch.await(ctx, fmt.Sprintf("site %s to tell that its link to %s is %s", teller, far, fact), func(e event.Event) bool {
			o, ok := factOf(e).(*event.ObjectChanged)
			return ok && told(e) && o.Object.ID == assess.LinkID(teller, far)
		}); err != nil {
			t.Errorf("the events do not tell it: %v", err)
		}
	}
}

func (f *fleet) cutFromWitness(ctx context.Context, t *testing.T) {
	f.partial(ctx, t, func(s domain.SiteID) [2]domain.SiteID { return [2]domain.SiteID{s, "w"} }, linkPatience)
}

func (f *fleet) cutTargetFromWitness(ctx context.Context, t *testing.T) {
	f.partial(ctx, t, func(s domain.SiteID) [2]domain.SiteID { return [2]domain.SiteID{other(s), "w"} }, linkPatience)
}

// cutBetweenData takes the target of a synchronous group away: the group goes on without it once the votes have it out of
// the in-sync set.
func (f *fleet) cutBetweenData(ctx context.Context, t *testing.T) {
	f.partial(ctx, t, func(s domain.SiteID) [2]domain.SiteID { return [2]domain.SiteID{s, other(s)} }, waitLimit)
}

// switchedOver moves the group as an operator does, and back.
func (f *fleet) switchedOver(ctx context.Context, t *testing.T) {
	for range 2 {
		from, err := f.serving(ctx)
		if err != nil {
			t.Fatal(err)
		}
		to, begun := other(from), time.Now()
		if err := f.watch.exec(ctx, nil, "run", "start", "--plan", plan, "--kind", api.RunSwitchover, "--from", string(from), "--to", string(to),
			"--reason", "works on the power supply", "--by", "e2e", "--timeout", "60s"); err != nil {
			t.Fatal(err)
		}
		if err := f.whole(ctx, to); err != nil {
			t.Fatal(err)
		}
		t.Logf("moved from %s to %s; the user waited %.1f s", from, to, f.longestWait(begun).Seconds())
		f.stoppedFirst(t, from, to, begun)
		f.judge(ctx, t, to)
	}
}

// healthy wants every container's own health check to hold, after all of it.
func (f *fleet) healthy(ctx context.Context, t *testing.T) {
	ctx, cancel := context.WithTimeout(ctx, healLimit)
	defer cancel()
	if err := await(ctx, "every container to be healthy", time.Second, func() (bool, string) {
		bad := f.unhealthy(ctx)
		return bad == "", bad
	}); err != nil {
		t.Error(err)
	}
}
