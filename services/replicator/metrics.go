package replicator

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/telemetry"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// meters are the instruments of the iSCSI path.
type meters struct {
	commands, bytes *telemetry.CounterVec
	took            *telemetry.HistogramVec
}

func newMeters(m *telemetry.Metrics) meters {
	return meters{commands: m.Counter(telemetry.ISCSICommands), bytes: m.Counter(telemetry.ISCSIBytes), took: m.Histogram(telemetry.ISCSIDuration)}
}

// volumeMeter measures one volume. Every series is resolved beforehand, so that a command costs a few atomic additions.
type volumeMeter struct {
	commands [target.Classes][target.Outcomes]telemetry.Counter
	bytes    [target.Classes]telemetry.Counter   // nil for a class that moves none
	took     [target.Classes]telemetry.Histogram // nil for other
}

// volume is the meter of one volume; the same series again when it is served anew.
func (m meters) volume(g domain.GroupID, v domain.VolumeID) target.Meter {
	classes := [target.Classes]string{target.ClassRead: "read", target.ClassWrite: "write", target.ClassFlush: "flush", target.ClassOther: "other"}
	outcomes := [target.Outcomes]string{target.OutcomeGood: "good", target.OutcomeCheckCondition: "check_condition", target.OutcomeRefused: "refused", target.OutcomeAborted: "aborted"}
	vm := &volumeMeter{}
	for c, op := range classes {
		for o, status := range outcomes {
			vm.commands[c][o] = m.commands.WithLabelValues(string(g), string(v), op, status)
		}
		if c := target.Class(c); c == target.ClassRead || c == target.ClassWrite {
			vm.bytes[c] = m.bytes.WithLabelValues(string(g), string(v), op)
		}
		if target.Class(c) != target.ClassOther {
			vm.took[c] = m.took.WithLabelValues(string(g), string(v), op)
		}
	}
	return vm
}

// Observe implements target.Meter.
func (m *volumeMeter) Observe(class target.Class, outcome target.Outcome, bytes int, took time.Duration) {
	m.commands[class][outcome].Inc()
	if bytes > 0 && m.bytes[class] != nil {
		m.bytes[class].Add(float64(bytes))
	}
	if outcome != target.OutcomeAborted && m.took[class] != nil {
		m.took[class].Observe(took.Seconds())
	}
}

// tellMetrics lets the gauges be read from the status of every group.
func (s *service) tellMetrics(m *telemetry.Metrics) {
	m.Collect([]string{telemetry.GroupEpoch, telemetry.GroupServing, telemetry.GroupRole, telemetry.GroupConsistent, telemetry.GroupFailed, telemetry.GroupQuarantined,
		telemetry.JournalUsed, telemetry.JournalSize, telemetry.JournalFill, telemetry.ReplicationRPO, telemetry.ReplicationRPOTarget, telemetry.ReplicationLagSeconds,
		telemetry.ReplicationLagBytes, telemetry.ReplicationInSync, telemetry.ReplicationState, telemetry.ReplicationResyncSent, telemetry.ReplicationResyncWhole,
		telemetry.ISCSISessions, telemetry.GroupWriteBytes, telemetry.GroupWrites, telemetry.GroupRewritten,
		telemetry.ReplicationLossWrites, telemetry.ReplicationLossBytes, telemetry.TakeoverLossWrites, telemetry.TakeoverLossBytes, telemetry.TakeoverLossSeconds, telemetry.TakeoverLossAge, telemetry.GroupHeld, telemetry.GroupDamage,
		telemetry.ReplicationBreaks, telemetry.ReplicationLine, telemetry.Checkpoints, telemetry.CheckpointBytes, telemetry.CheckpointOldest, telemetry.CheckpointNewest,
		telemetry.VerifyRunning, telemetry.VerifyAge, telemetry.VerifyDiffer, telemetry.VerifyHealed, telemetry.VerifyFailed}, func(set telemetry.Set) {
		sessions := map[string]int{}
		for _, ss := range s.portal.srv.Sessions() {
			sessions[s.portal.URL(ss.Target)]++
		}
		for _, g := range s.groupStatus("") {
			measureGroup(set, g)
			for _, d := range g.Disks {
				set(telemetry.ISCSISessions, float64(sessions[d.URL]), string(g.Group), string(d.Volume))
			}
			open, err := s.find(g.Group)
			switch {
			case err != nil:
			case g.Role == domain.RolePrimary:
				measureWrites(set, open.Writes())
			default:
				measureTakeover(set, g.Group, open.Estimate())
				measureCheckpoints(set, open.Checkpoints())
			}
		}
	})
}

func measureTakeover(set telemetry.Set, g domain.GroupID, e api.LossEstimate) {
	if e.Known {
		set(telemetry.TakeoverLossWrites, float64(e.Writes), string(g))
		set(telemetry.TakeoverLossBytes, float64(e.Bytes), string(g))
		set(telemetry.TakeoverLossSeconds, e.Seconds, string(g))
		set(telemetry.TakeoverLossAge, e.Silent, string(g))
	}
}

func measureCheckpoints(set telemetry.Set, l api.CheckpointList) {
	g := string(l.Group)
	set(telemetry.Checkpoints, float64(len(l.Checkpoints)), g)
	set(telemetry.CheckpointBytes, float64(l.Bytes), g)
	if n := len(l.Checkpoints); n > 0 {
		set(telemetry.CheckpointOldest, time.Since(l.Checkpoints[0].Time).Seconds(), g)
		set(telemetry.CheckpointNewest, time.Since(l.Checkpoints[n-1].Time).Seconds(), g)
	}
}

// measureVerify tells of the last comparison with each target; the age is that of the last good one.
func measureVerify(set telemetry.Set, g string, st api.GroupStatus) {
	for _, v := range st.Verify {
		site := string(v.Target)
		set(telemetry.VerifyRunning, telemetry.Bool(v.Running), g, site)
		set(telemetry.VerifyDiffer, float64(v.Differ), g, site)
		set(telemetry.VerifyHealed, float64(v.Healed), g, site)
		if st.Role == domain.RolePrimary { // nobody who is none can mend it
			set(telemetry.VerifyFailed, telemetry.Bool(!v.FailedSince.IsZero()), g, site)
		}
		if !v.LastGood.IsZero() {
			set(telemetry.VerifyAge, time.Since(v.LastGood).Seconds(), g, site)
		}
	}
}

func measureWrites(set telemetry.Set, w api.GroupWrites) {
	g := string(w.Group)
	for name, s := range map[string]api.Spread{telemetry.GroupWriteBytes: w.Hour.Frames, telemetry.GroupWrites: w.Hour.Writes} {
		set(name, s.Mean, g, "mean")
		set(name, s.P50, g, "p50")
		set(name, s.P95, g, "p95")
		set(name, s.P99, g, "p99")
		set(name, s.Max, g, "max")
	}
	set(telemetry.GroupRewritten, w.Week.Rewritten, g)
}

func measureGroup(set telemetry.Set, st api.GroupStatus) {
	g := string(st.Group)
	set(telemetry.GroupFailed, telemetry.Bool(st.Error != ""), g)
	set(telemetry.GroupServing, telemetry.Bool(st.Serving), g)
	for _, role := range []domain.Role{domain.RolePrimary, domain.RoleTarget, domain.RoleIdle} {
		set(telemetry.GroupRole, telemetry.Bool(st.Role == role), g, string(role))
	}
	set(telemetry.GroupEpoch, float64(st.Epoch), g)
	set(telemetry.GroupConsistent, telemetry.Bool(st.Consistent), g)
	var kept uint64
	for _, q := range st.Quarantined {
		kept += q.Writes
	}
	set(telemetry.GroupQuarantined, float64(kept), g)
	set(telemetry.GroupDamage, float64(st.DamageFound), g)
	for _, reason := range api.HeldReasons() {
		held := slices.ContainsFunc(st.Held, func(h api.Held) bool { return h.Reason == reason })
		set(telemetry.GroupHeld, telemetry.Bool(held), g, reason)
	}
	if st.JournalSize > 0 { // not opened: there is no journal to speak of
		set(telemetry.JournalUsed, float64(st.JournalUsed), g)
		set(telemetry.JournalSize, float64(st.JournalSize), g)
		set(telemetry.JournalFill, float64(st.JournalUsed)/float64(st.JournalSize), g)
	}
	if st.Role != domain.RolePrimary {
		return
	}
	set(telemetry.ReplicationRPOTarget, st.RPOTarget, g)
	measureVerify(set, g, st)
	for _, t := range st.Targets {
		site := string(t.Site)
		set(telemetry.ReplicationRPO, t.RPOSeconds, g, site)
		if t.Loss.Known {
			set(telemetry.ReplicationLossWrites, float64(t.Loss.Writes), g, site)
			set(telemetry.ReplicationLossBytes, float64(t.Loss.Bytes), g, site)
		}
		set(telemetry.ReplicationLagSeconds, t.LagSeconds, g, site)
		set(telemetry.ReplicationLagBytes, float64(t.LagBytes), g, site)
		set(telemetry.ReplicationInSync, telemetry.Bool(t.InSync), g, site, string(t.Mode))
		for _, state := range api.TargetStates() {
			set(telemetry.ReplicationState, telemetry.Bool(t.State == state), g, site, state)
		}
		set(telemetry.ReplicationBreaks, float64(t.Breaks), g, site)
		set(telemetry.ReplicationLine, telemetry.Bool(t.Way == api.WayLine), g, site)
		set(telemetry.ReplicationResyncSent, float64(t.ResyncBytes), g, site)
		set(telemetry.ReplicationResyncWhole, float64(t.ResyncTotal), g, site)
	}
}
