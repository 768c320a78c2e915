package demo

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

const (
	rtoLimit       = 20 * time.Second
	afterwards     = time.Second // how long clients go on after the first answer
	resyncFraction = 0.10
)

func targetReady(st api.GroupStatus, target domain.SiteID, mode domain.Mode) bool {
	for _, t := range st.Targets {
		if t.Site == target {
			return t.State == api.TargetStreaming && (t.InSync || mode != domain.ModeSync)
		}
	}
	return false
}

// writeAWhile lets the clients write for one to three seconds, so that the fault strikes at a moment the seed chooses.
func (w *world) writeAWhile(ctx context.Context) {
	wait(ctx, time.Second+time.Duration(w.rng.Int64N(int64(2*time.Second))))
}

// before notes each group's epoch and each name's address, before the fault.
func (w *world) before(ctx context.Context, serving domain.SiteID) error {
	for _, wl := range workloads() {
		st, err := w.con.replica(ctx, serving, wl.group)
		if err != nil {
			return err
		}
		w.report.Groups = append(w.report.Groups, GroupReport{Name: wl.group, Mode: wl.mode, EpochBefore: st.Epoch})
		addr, _, err := resolveAt(ctx, w.authorities(), wl.name)
		if err != nil {
			return err
		}
		w.report.DNS = append(w.report.DNS, DNSReport{Name: wl.name, Before: addr})
	}
	return nil
}

func (w *world) authorities() []string { return []string{w.l.dnsAddr(siteA), w.l.dnsAddr(siteB)} }

// answered waits for each client's first append done at a site after the fault and notes the recovery time.
func (w *world) answered(ctx context.Context, at domain.SiteID, fault time.Time, of func(domain.GroupID) bool) error {
	for i, wl := range workloads() {
		if !of(wl.group) {
			continue
		}
		before := w.report.Groups[i].EpochBefore
		a, err := w.clients[wl.group].await(ctx, func(a ack) bool { return a.Site == at && a.at.After(fault) && a.Epoch > before })
		if err != nil {
			return err
		}
		w.report.Groups[i].RTOSeconds = a.at.Sub(fault).Seconds()
		w.tell.good("a client of %s is answered by site %s, %.2f s after the fault", wl.name, at, w.report.Groups[i].RTOSeconds)
	}
	return nil
}

func allGroups(domain.GroupID) bool { return true }

func (w *world) siteLoss(ctx context.Context) error {
	if err := w.before(ctx, siteA); err != nil {
		return err
	}
	_, err := w.loseA(ctx)
	if err != nil {
		return err
	}
	return w.conclude(ctx, siteB)
}

// loseA takes the power from site a and waits until b serves.
func (w *world) loseA(ctx context.Context) (time.Time, error) {
	w.writeAWhile(ctx)
	fault := time.Now()
	w.launch.killSite(siteA)
	w.tell.bad("site a has lost its power")
	return fault, w.takenOver(ctx, fault)
}

// takenOver waits for the failover at b and its first answers.
func (w *world) takenOver(ctx context.Context, fault time.Time) error {
	if err := w.answered(ctx, siteB, fault, allGroups); err != nil {
		return err
	}
	run, err := w.con.awaitRun(ctx, siteB, api.RunFailover, fault)
	if err != nil {
		return err
	}
	w.noteRun(run, fault)
	w.story(ctx, run)
	wait(ctx, afterwards)
	return nil
}

func (w *world) switchover(ctx context.Context) error {
	if err := w.before(ctx, siteA); err != nil {
		return err
	}
	w.writeAWhile(ctx)
	if _, err := w.move(ctx, api.RunSwitchover, siteA, siteB); err != nil {
		return err
	}
	return w.conclude(ctx, siteB)
}

// move starts a planned move and waits for its end.
func (w *world) move(ctx context.Context, kind string, from, to domain.SiteID) (api.Run, error) {
	conn, err := w.con.mesh.Conn(to)
	if err != nil {
		return api.Run{}, err
	}
	start := time.Now()
	w.tell.note("%s from site %s to site %s begins", kind, from, to)
	req := api.RunStartRequest{Plan: plan, Kind: kind, From: from, Reason: "demo", By: "demo"}
	if _, err := bus.Call[api.Run](ctx, conn, api.ServiceFailover, api.VerbRunStart, req); err != nil {
		return api.Run{}, fmt.Errorf("start %s: %w", kind, err)
	}
	if err := w.answered(ctx, to, start, allGroups); err != nil {
		return api.Run{}, err
	}
	run, err := w.con.awaitRun(ctx, to, kind, start)
	if err != nil {
		return run, err
	}
	w.noteRun(run, start)
	wait(ctx, afterwards)
	return run, nil
}

func (w *world) failback(ctx context.Context) error {
	return w.thereAndBack(ctx, func(domain.SiteID, time.Time) error { return nil })
}

// thereAndBack loses site a, takes its work home again, and looks at how the group is served before and after that.
func (w *world) thereAndBack(ctx context.Context, look func(serving domain.SiteID, since time.Time) error) error {
	if err := w.before(ctx, siteA); err != nil {
		return err
	}
	fault, err := w.loseA(ctx)
	if err != nil {
		return err
	}
	if err := look(siteB, fault); err != nil {
		return err
	}
	rto := []float64{w.report.Groups[0].RTOSeconds, w.report.Groups[1].RTOSeconds}
	lost, err := w.lostAt(ctx, siteB)
	if err != nil {
		return err
	}
	w.tell.note("site a gets its power back")
	if err := w.powerOn(ctx, siteA); err != nil {
		return err
	}
	if err := w.protected(ctx, siteB, siteA); err != nil {
		return err
	}
	w.tell.good("site a protects both groups again")
	if err := w.checkReprotect(ctx, lost); err != nil {
		return err
	}
	w.writeAWhile(ctx)
	begin := time.Now()
	if _, err := w.move(ctx, api.RunFailback, siteB, siteA); err != nil {
		return err
	}
	if err := look(siteA, begin); err != nil {
		return err
	}
	for i, was := range rto { // the disaster's, not the failback's
		w.report.check(fmt.Sprintf("%s: the failback interrupts for less than %v", w.report.Groups[i].Name, rtoLimit), w.report.Groups[i].RTOSeconds < rtoLimit.Seconds(), "%.2f s", w.report.Groups[i].RTOSeconds)
		w.report.Groups[i].RTOSeconds = was
	}
	if err := w.conclude(ctx, siteA); err != nil {
		return err
	}
	for i, wl := range workloads() {
		w.report.check(fmt.Sprintf("%s: the failback loses nothing", wl.group), w.report.Groups[i].LostWrites == lost[wl.group],
			"%d missing before it, %d after", lost[wl.group], w.report.Groups[i].LostWrites)
	}
	return nil
}

// lostAt counts the acknowledged writes that the disks of a serving site lack, while it goes on serving.
func (w *world) lostAt(ctx context.Context, s domain.SiteID) (map[domain.GroupID]int, error) {
	out := map[domain.GroupID]int{}
	for _, wl := range workloads() {
		lines, err := w.l.ledgers(wl.vm) // before the disk: what is acknowledged meanwhile is on it
		if err != nil {
			return nil, err
		}
		log, err := w.readLog(ctx, s, wl)
		if err != nil {
			return nil, err
		}
		for _, l := range ledger.Lost(lines, log.found) {
			if l.Site == siteA {
				out[wl.group]++
			}
		}
	}
	return out, nil
}

// checkReprotect holds the way home to its promises: what diverged is kept aside, and only what differs was sent.
func (w *world) checkReprotect(ctx context.Context, lost map[domain.GroupID]int) error {
	for _, wl := range workloads() {
		at, err := w.con.replica(ctx, siteA, wl.group)
		if err != nil {
			return err
		}
		kept := uint64(0)
		for _, q := range at.Quarantined {
			kept += q.Writes
		}
		w.report.check(fmt.Sprintf("%s: every diverged write is kept aside", wl.group), kept >= uint64(lost[wl.group]), "%d missing at b, %d writes in quarantine at a", lost[wl.group], kept)
		from, err := w.con.replica(ctx, siteB, wl.group)
		if err != nil {
			return err
		}
		for _, t := range from.Targets {
			if t.Site == siteA {
				w.report.check(fmt.Sprintf("%s: reprotect sends less than 10 %% of the volumes", wl.group), t.VolumeBytes > 0 && float64(t.ResyncBytes) < resyncFraction*float64(t.VolumeBytes),
					"%d of %d bytes", t.ResyncBytes, t.VolumeBytes)
			}
		}
	}
	return nil
}

func (w *world) partition(ctx context.Context) error {
	if err := w.before(ctx, siteA); err != nil {
		return err
	}
	w.writeAWhile(ctx)
	fault := time.Now()
	w.links.isolate(siteA)
	w.tell.bad("site a is cut off from b and w; its VMs and its clients are alive")
	if err := w.takenOver(ctx, fault); err != nil {
		return err
	}
	for _, wl := range workloads() {
		lines, err := w.l.ledgers(wl.vm)
		if err != nil {
			return err
		}
		stopped, begun := handover(lines, siteA, siteB)
		w.report.check(fmt.Sprintf("%s: site a stops before site b starts", wl.group), stopped > 0 && begun > 0 && stopped < begun,
			"last sign of life at a %v before the first at b, by the workloads' clocks", time.Duration(begun-stopped).Round(time.Millisecond))
		err = w.pageAnswers(ctx, w.l.vmAddr(wl, siteA))
		w.report.check(fmt.Sprintf("%s: nothing of it runs at site a any more", wl.group), err != nil, "its address there: %v", err)
	}
	return w.conclude(ctx, siteB)
}

// handover is the last sign of life of a VM at one site and its first at another, on CLOCK_BOOTTIME.
func handover(lines []ledger.Line, from, to domain.SiteID) (stopped, begun int64) {
	for _, l := range lines {
		switch {
		case l.Site == from && l.Kind == ledger.KindAck:
			stopped = max(stopped, l.ClockNS)
		case l.Site == to && begun == 0:
			begun = l.ClockNS
		}
	}
	return stopped, begun
}

func (w *world) pageAnswers(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, clientTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/status", addr, w.l.ports.service), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (w *world) hostIncident(ctx context.Context) error {
	if err := w.before(ctx, siteA); err != nil {
		return err
	}
	w.writeAWhile(ctx)
	fault := time.Now()
	host := siteHosts[siteA][0]
	w.launch.killHost(siteA, host)
	w.tell.bad("host %s has lost its power", host)
	if err := w.answered(ctx, siteA, fault, func(g domain.GroupID) bool { return g == groupSync }); err != nil {
		return err
	}
	run, err := w.con.awaitRun(ctx, siteA, api.RunStart, fault)
	if err != nil {
		return err
	}
	w.noteRun(run, fault)
	wait(ctx, afterwards)
	_, err = w.con.await(ctx, "an incident", func(s seen) bool {
		f, ok := s.fact.(*event.IncidentChanged)
		return ok && f.Fact == "opened" && f.Assessment.Site == siteA
	})
	w.report.check("the loss of the host is told as an incident", err == nil, "%s", host)
	disasters := 0
	for _, s := range w.con.all() {
		switch s.fact.(type) {
		case *event.DisasterChanged, *event.DisasterDeclared:
			disasters++
		}
	}
	w.report.check("no disaster is suspected, confirmed or declared", disasters == 0, "%d events", disasters)
	return w.conclude(ctx, siteA)
}
