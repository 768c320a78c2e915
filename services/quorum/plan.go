package quorum

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

// planEvery is how often the planner looks again at what only a running site knows.
const planEvery = time.Minute

// plan runs the planner at the start, when a lease is granted or weights change, and now and then, tells what is new, and
// sees to it that the configured weights come into force.
func (s *service) plan(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last planner.Report
	told := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.replanned:
		case <-timer.C:
			s.probePassive()
		}
		timer.Reset(planEvery)
		s.reweigh()
		st, err := s.answerStatus(ctx, api.Empty{})
		if err != nil {
			return // the service is ending
		}
		report, err := s.report(st)
		if err != nil {
			s.log.Error("quorum not planned", "error", err)
			return
		}
		raised, cleared := planner.Changes(last, report)
		for _, f := range raised {
			told++
			s.tellPlan("warning_raised", f, told)
		}
		for _, f := range cleared {
			told++
			s.tellPlan("warning_cleared", f, told)
		}
		last = report
	}
}

// report is the planner's of what this site knows; empty where nothing was given to plan.
func (s *service) report(st api.QuorumStatus) (planner.Report, error) {
	in := s.cfg.Plan
	if len(in.Voters) == 0 {
		return planner.Report{}, nil
	}
	in.Live = planner.LiveOf([]api.QuorumStatus{st})
	return planner.Check(in)
}

// replan makes the planner look again at once.
func (s *service) replan() {
	select {
	case s.replanned <- struct{}{}:
	default: // it is about to
	}
}

func (s *service) tellPlan(fact string, f planner.Finding, n int) {
	level := slog.LevelInfo
	if fact == "warning_raised" && f.Severity != planner.Note {
		level = slog.LevelWarn
	}
	s.log.Log(s.ctx, level, "quorum warning", "fact", fact, "code", f.Code, "severity", string(f.Severity), "about", f.About, "text", f.Text, "consequence", f.Consequence, "mend", f.Mend)
	s.events.Publish(s.ctx, s.cfg.Cluster+"-"+s.boot+"-"+fact+"-"+strconv.Itoa(n), event.QuorumWarned{Fact: fact, Cluster: s.cfg.Cluster, Site: s.cfg.Site,
		Code: f.Code, Severity: string(f.Severity), About: f.About, Text: f.Text, Consequence: f.Consequence, Mend: f.Mend})
}
