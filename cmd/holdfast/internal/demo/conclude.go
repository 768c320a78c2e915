package demo

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// noteRun keeps a run's trace and turns its steps into phases.
func (w *world) noteRun(run api.Run, fault time.Time) {
	w.report.TraceID = run.TraceID
	w.report.Runs = append(w.report.Runs, RunReport{run.ID, run.Kind, run.Leader, run.TraceID, run.FirstMissed})
	for _, s := range w.con.all() {
		switch f := s.fact.(type) {
		case *event.DisasterChanged:
			if s.site == run.Leader && f.Fact == "confirmed" && s.ev.Time.After(fault) && !f.FirstMissed.IsZero() {
				w.report.Phases = append(w.report.Phases, Phase{"detect", f.FirstMissed, s.ev.Time})
			}
		case *event.DisasterDeclared:
			if n := len(w.report.Phases); n > 0 && s.ev.Time.After(fault) {
				w.report.Phases = append(w.report.Phases, Phase{"hold-down", w.report.Phases[n-1].End, s.ev.Time})
			}
		}
	}
	for _, st := range run.Steps {
		i := slices.IndexFunc(w.report.Phases, func(p Phase) bool { return p.Name == st.Kind && !p.Start.Before(run.Started) })
		if i < 0 {
			w.report.Phases = append(w.report.Phases, Phase{st.Kind, st.Started, st.Ended})
			continue
		}
		p := &w.report.Phases[i]
		if st.Started.Before(p.Start) {
			p.Start = st.Started
		}
		if st.Ended.After(p.End) {
			p.End = st.Ended
		}
	}
}

// story checks that an outsider who follows the events saw the whole of a failover, and that it is one trace.
func (w *world) story(ctx context.Context, run api.Run) {
	want := []string{"disaster.confirmed", "disaster.declared", "group.epoch_granted", "group.promoted", "run.started", "vm.started", "name.changed", "run.completed"}
	sctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var missing []string
	for _, kind := range want {
		_, err := w.con.await(sctx, kind, func(s seen) bool {
			return s.site == run.Leader && s.ev.Type == "hf.v1."+kind && !s.ev.Time.Before(run.Started.Add(-rtoLimit))
		})
		if err != nil {
			missing = append(missing, kind)
		}
	}
	w.report.check("the events tell the whole story", len(missing) == 0, "%d kinds wanted, missing %v", len(want), missing)
	if w.spans != nil {
		w.checkTrace(ctx, run)
	}
}

// conclude stops the clients, reads the disks the serving site promoted, and makes the checks every scenario shares.
func (w *world) conclude(ctx context.Context, serving domain.SiteID) error {
	w.stopClients()
	for i, wl := range workloads() {
		g := &w.report.Groups[i]
		st, err := w.con.replica(ctx, serving, wl.group)
		if err != nil {
			return err
		}
		g.EpochAfter = st.Epoch
		lines, err := w.l.ledgers(wl.vm)
		if err != nil {
			return err
		}
		log, err := w.readLog(ctx, serving, wl)
		if err != nil {
			return err
		}
		judge(g, lines, log)
		w.checkGroup(wl, g, log)
		w.concludeName(ctx, i, wl)
	}
	declared := map[domain.RunID]bool{}
	for _, s := range w.con.all() {
		if f, ok := s.fact.(*event.DisasterDeclared); ok {
			declared[f.Run] = true
		}
	}
	w.report.check("no disaster is declared of a site that lives", len(declared) <= 1, "%d declared", len(declared))
	return nil
}

func (w *world) checkGroup(wl workload, g *GroupReport, log diskLog) {
	name := func(s string) string { return fmt.Sprintf("%s: %s", wl.group, s) }
	r := w.report
	r.check(name("clients wrote"), g.WritesAcked > 20, "%d writes acknowledged", g.WritesAcked)
	r.check(name("every client's acknowledgement is in a ledger"), len(w.clients[wl.group].all()) <= g.WritesAcked, "%d at the client", len(w.clients[wl.group].all()))
	if wl.mode == domain.ModeSync {
		r.check(name("no acknowledged write is lost"), g.LostWrites == 0, "%d of %d lost", g.LostWrites, g.WritesAcked)
	}
	detail := log.report.Problem
	if log.err != nil {
		detail = log.err.Error()
	}
	r.check(name("the log on the disk is an unbroken prefix of what was written"), g.PrefixOK, "%d records %s", log.report.Records, detail)
	r.check(name("never served twice"), !g.ServedTwice, "by the workloads' clocks")
	moved := g.RTOSeconds > 0
	if moved {
		r.check(name("the epoch grew"), g.EpochAfter > g.EpochBefore, "%s -> %s", g.EpochBefore, g.EpochAfter)
		r.check(name(fmt.Sprintf("back within %v", w.rtoLimit())), g.RTOSeconds < w.rtoLimit().Seconds(), "%.2f s", g.RTOSeconds)
	}
}

// rtoLimit allows a guest in software emulation its time to boot.
func (w *world) rtoLimit() time.Duration {
	if w.opts.VM == "qemu" {
		return 2 * time.Minute
	}
	return rtoLimit
}

func (w *world) concludeName(ctx context.Context, i int, wl workload) {
	d := &w.report.DNS[i]
	addr, _, err := resolveAt(ctx, w.authorities(), wl.name)
	if err != nil {
		w.report.check(fmt.Sprintf("%s resolves", wl.name), false, "%v", err)
		return
	}
	d.After = addr
	for _, s := range w.con.all() {
		if f, ok := s.fact.(*event.NameChanged); ok && f.Fact == "changed" && strings.TrimSuffix(f.Name, ".") == wl.name && f.After == addr {
			d.AuthoritySeconds = f.AuthoritySeconds
		}
	}
	acks := w.clients[wl.group].all()
	last := acks[len(acks)-1].Site
	w.report.check(fmt.Sprintf("%s points at where it is served", wl.name), addr == w.l.vmAddr(wl, last), "%s, site %s", addr, last)
}

// readLog reads a workload's log from the disks a site serves.
func (w *world) readLog(ctx context.Context, s domain.SiteID, wl workload) (diskLog, error) {
	st, err := w.con.replica(ctx, s, wl.group)
	if err != nil {
		return diskLog{}, err
	}
	if w.opts.VM == "qemu" && len(st.Disks) == 1 {
		return readGuestDisk(ctx, st.Disks[0], w.l.dir)
	}
	return readDisks(ctx, st.Disks)
}
