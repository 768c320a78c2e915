package telemetry

import "slices"

// Kind is what a metric is in Prometheus.
type Kind string

// The kinds of metric.
const (
	KindGauge     Kind = "gauge"
	KindCounter   Kind = "counter"
	KindHistogram Kind = "histogram"
)

// Metric describes one metric. The registry adds the labels site and service to each. Labels have few values each: names of
// the configuration, states, results; never an id that grows with time.
type Metric struct {
	Name    string
	Kind    Kind
	Service string // who tells it: a service, host for a VM host's agent, or any
	Labels  []string
	Help    string
	Buckets []float64 // of a histogram, in seconds
}

// Names of every metric. docs/operations/metrics.md lists them; a test holds the two together.
const (
	BuildInfo         = "holdfast_build_info"
	ServiceReady      = "holdfast_service_ready"
	ServiceImpaired   = "holdfast_service_impaired"
	BusConnected      = "holdfast_bus_connected"
	BreakerState      = "holdfast_breaker_state"
	CertificateExpiry = "holdfast_certificate_expiry_seconds"

	GroupEpoch       = "holdfast_group_epoch"
	GroupServing     = "holdfast_group_serving"
	GroupRole        = "holdfast_group_role"
	GroupConsistent  = "holdfast_group_consistent"
	GroupFailed      = "holdfast_group_failed"
	GroupQuarantined = "holdfast_group_quarantined_writes"
	GroupWriteBytes  = "holdfast_group_write_bytes_per_second"
	GroupWrites      = "holdfast_group_writes_per_second"
	GroupRewritten   = "holdfast_group_rewritten_ratio"
	GroupHeld        = "holdfast_group_held"
	GroupDamage      = "holdfast_group_damage_found"
	JournalUsed      = "holdfast_journal_used_bytes"
	JournalSize      = "holdfast_journal_size_bytes"
	JournalFill      = "holdfast_journal_fill_ratio"

	ReplicationRPO         = "holdfast_replication_rpo_seconds"
	ReplicationRPOTarget   = "holdfast_replication_rpo_target_seconds"
	ReplicationLossWrites  = "holdfast_replication_loss_writes"
	ReplicationLossBytes   = "holdfast_replication_loss_bytes"
	TakeoverLossWrites     = "holdfast_takeover_loss_writes"
	TakeoverLossBytes      = "holdfast_takeover_loss_bytes"
	TakeoverLossSeconds    = "holdfast_takeover_loss_seconds"
	TakeoverLossAge        = "holdfast_takeover_loss_age_seconds"
	ReplicationLagSeconds  = "holdfast_replication_lag_seconds"
	ReplicationLagBytes    = "holdfast_replication_lag_bytes"
	ReplicationInSync      = "holdfast_replication_in_sync"
	ReplicationState       = "holdfast_replication_target_state"
	ReplicationResyncSent  = "holdfast_replication_resync_sent_bytes"
	ReplicationResyncWhole = "holdfast_replication_resync_size_bytes"
	ReplicationBreaks      = "holdfast_replication_breaks"
	ReplicationLine        = "holdfast_replication_line"

	Checkpoints      = "holdfast_checkpoints"
	CheckpointBytes  = "holdfast_checkpoint_bytes"
	CheckpointOldest = "holdfast_checkpoint_oldest_seconds"
	CheckpointNewest = "holdfast_checkpoint_newest_seconds"

	VerifyRunning = "holdfast_verify_running"
	VerifyAge     = "holdfast_verify_age_seconds"
	VerifyDiffer  = "holdfast_verify_differ_bytes"
	VerifyHealed  = "holdfast_verify_healed_bytes"
	VerifyFailed  = "holdfast_verify_failed"

	ISCSICommands = "holdfast_iscsi_commands_total"
	ISCSIBytes    = "holdfast_iscsi_bytes_total"
	ISCSIDuration = "holdfast_iscsi_command_duration_seconds"
	ISCSISessions = "holdfast_iscsi_sessions"

	LeaseHeld       = "holdfast_lease_held"
	LeaseRemaining  = "holdfast_lease_remaining_seconds"
	LeaseEpoch      = "holdfast_lease_epoch"
	LeaseChanges    = "holdfast_lease_changes_total"
	Votes           = "holdfast_quorum_votes_total"
	VoterReachable  = "holdfast_quorum_voter_reachable"
	QuorumReachable = "holdfast_quorum_reachable"
	QuorumForced    = "holdfast_quorum_forced"
	QuorumPrevented = "holdfast_quorum_prevented"

	HealthObjects    = "holdfast_health_objects"
	HealthSuspicion  = "holdfast_health_suspicion_ratio"
	HealthMissed     = "holdfast_health_missed_beats"
	HealthAssessment = "holdfast_health_assessment"
	HealthSick       = "holdfast_health_observer_sick"
	ClockSkew        = "holdfast_clock_skew_seconds"

	Runs            = "holdfast_runs_total"
	RunsActive      = "holdfast_runs_active"
	RunDuration     = "holdfast_run_duration_seconds"
	RunStepDuration = "holdfast_run_step_duration_seconds"
	RunLastRTO      = "holdfast_run_last_rto_seconds"
	SiteDrained     = "holdfast_site_drained"
	DrainGroups     = "holdfast_drain_groups"
	Declarations    = "holdfast_declarations"

	DNSChanges  = "holdfast_dns_changes_total"
	DNSDuration = "holdfast_dns_change_duration_seconds"

	HostVMs = "holdfast_host_vms"

	RelayConnections = "holdfast_relay_connections"
	RelayEnded       = "holdfast_relay_connections_ended_total"
	RelayBytes       = "holdfast_relay_bytes_total"
)

// Catalogue lists every metric of the product, sorted by name.
func Catalogue() []Metric {
	all := slices.Concat(commonMetrics(), replicatorMetrics(), quorumMetrics(), healthMetrics(), runMetrics(), relayMetrics())
	slices.SortFunc(all, func(a, b Metric) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return all
}

func commonMetrics() []Metric {
	return []Metric{
		{Name: BuildInfo, Kind: KindGauge, Service: "any", Labels: []string{"version", "goversion"}, Help: "Always 1; the labels name the build."},
		{Name: ServiceReady, Kind: KindGauge, Service: "any", Help: "1 while every check of /healthz passes that counts."},
		{Name: ServiceImpaired, Kind: KindGauge, Service: "any", Help: "1 while the service is ready and does without something that its configuration asks for, such as a port that is taken: /healthz says what."},
		{Name: BusConnected, Kind: KindGauge, Service: "any", Labels: []string{"peer"}, Help: "1 while the NATS server of a site, the own one included, is reached."},
		{Name: BreakerState, Kind: KindGauge, Service: "any", Labels: []string{"peer"}, Help: "Circuit breaker of calls to a site, voter or host: 0 closed, 1 half open, 2 open."},
		{Name: CertificateExpiry, Kind: KindGauge, Service: "any", Help: "Seconds until the TLS certificate of the service ends; negative once it has. Only with security.secrets."},
	}
}

func replicatorMetrics() []Metric {
	group, target := []string{"group"}, []string{"group", "target"}
	gauge := func(name string, labels []string, help string) Metric {
		return Metric{Name: name, Kind: KindGauge, Service: "replicator", Labels: labels, Help: help}
	}
	return []Metric{
		gauge(GroupEpoch, group, "Epoch the copy is at: of a primary the one it serves under, else the fence."),
		gauge(GroupServing, group, "1 while the group's volumes are served here."),
		gauge(GroupRole, []string{"group", "role"}, "1 for the role the copy has now: primary, target or idle."),
		gauge(GroupConsistent, group, "1 while the copy may be promoted."),
		gauge(GroupFailed, group, "1 when the copy has stopped for good or could not be opened."),
		gauge(GroupQuarantined, group, "Writes that another epoch overtook and that are kept aside here."),
		gauge(GroupWriteBytes, []string{"group", "stat"}, "Frame bytes that the group wrote a second over the last hour: mean, p50, p95, p99 and max. Told by the primary."),
		gauge(GroupWrites, []string{"group", "stat"}, "Changes that the group made a second over the last hour: mean, p50, p95, p99 and max. Told by the primary."),
		gauge(GroupRewritten, group, "Part of the written blocks that had been written in the same minute already, over the last week, about. Told by the primary."),
		gauge(GroupHeld, []string{"group", "reason"}, "1 while what the copy is to write waits: for room on the disk (disk), for room in the ring (journal), or, at a primary, for a synchronous target that does not answer (target)."),
		gauge(GroupDamage, group, "Times, since the copy was opened, that something kept or received here was not what was written. Nothing of it was used."),
		gauge(JournalUsed, group, "Bytes of the journal that are in use."),
		gauge(JournalSize, group, "Size of the journal."),
		gauge(JournalFill, group, "Part of the journal that is in use, 0 to 1."),
		gauge(ReplicationRPO, target, "What would be lost now if the primary were: the age of the oldest acknowledged write that the target lacks; 0 in sync. Told by the primary."),
		gauge(ReplicationRPOTarget, []string{"group"}, "The group's RPO target; 0 for a group that must not lose anything. Told by the primary."),
		gauge(ReplicationLossWrites, target, "Acknowledged changes that the target lacks: lost if the primary died now. Not there while that is unknown. Told by the primary."),
		gauge(ReplicationLossBytes, target, "Payload of the acknowledged changes that the target lacks. Not there while that is unknown. Told by the primary."),
		gauge(TakeoverLossWrites, group, "Changes lost if this site took over now, as far as it heard of the primary. Not there while that is unknown. Told by a target."),
		gauge(TakeoverLossBytes, group, "Payload lost if this site took over now, at most, as far as it heard of the primary. Not there while that is unknown. Told by a target."),
		gauge(TakeoverLossSeconds, group, "Seconds of work lost if this site took over now, at most: with a primary that is not heard of it grows, as that may have gone on. Not there while that is unknown. Told by a target."),
		gauge(TakeoverLossAge, group, "Time since the primary was last heard of: the writes and bytes lost by a takeover are as of then. Not there while they are unknown. Told by a target."),
		gauge(ReplicationLagSeconds, target, "Age of the oldest acknowledged write that the target lacks. Told by the primary."),
		gauge(ReplicationLagBytes, target, "Bytes of frames that the target lacks, about. Told by the primary."),
		gauge(ReplicationInSync, []string{"group", "target", "mode"}, "1 while the target is in the committed in-sync set; a target of mode async never is. Told by the primary."),
		gauge(ReplicationState, []string{"group", "target", "state"}, "1 for the target's state: connecting, resync, streaming, lagging, overflow or lost. Told by the primary."),
		gauge(ReplicationResyncSent, target, "Bytes that the last resync has sent so far. Told by the primary."),
		gauge(ReplicationResyncWhole, target, "Bytes that the last resync has to send in all. Told by the primary."),
		gauge(ReplicationBreaks, target, "Times that the stream to the target broke off since the site became primary. Told by the primary."),
		gauge(ReplicationLine, target, "1 while changes go to the target by a line, 0 while they go through NATS, or nowhere. Told by the primary."),
		gauge(Checkpoints, group, "Checkpoints that the copy can be read and promoted at. Told by a target."),
		gauge(CheckpointBytes, group, "Bytes that the copy's checkpoints take on the disk. Told by a target."),
		gauge(CheckpointOldest, group, "Age of the oldest checkpoint: how far back the copy reaches. Not there while there is none. Told by a target."),
		gauge(CheckpointNewest, group, "Age of the newest checkpoint. Not there while there is none. Told by a target."),
		gauge(VerifyRunning, target, "1 while the target's copy is being compared. Told by the primary, from the first comparison on."),
		gauge(VerifyAge, target, "Time since a comparison of the target's copy last came to its end with every block decided. Told by the primary, from the first comparison on."),
		gauge(VerifyDiffer, target, "Bytes that the last comparison found at the target other than at the primary. Told by the primary."),
		gauge(VerifyHealed, target, "Of these, bytes that were written again and are right now. Told by the primary."),
		gauge(VerifyFailed, target, "1 while no comparison of the target's copy was good since the last one that was not: it ended before its end, or left blocks undecided. Told by the primary."),
		{Name: ISCSICommands, Kind: KindCounter, Service: "replicator", Labels: []string{"group", "volume", "op", "status"},
			Help: "SCSI commands answered, by operation (read, write, flush, other) and status (good, check_condition, refused, aborted)."},
		{Name: ISCSIBytes, Kind: KindCounter, Service: "replicator", Labels: []string{"group", "volume", "op"}, Help: "Bytes read and written by commands that ended well."},
		{Name: ISCSIDuration, Kind: KindHistogram, Service: "replicator", Labels: []string{"group", "volume", "op"}, Buckets: ioBuckets(),
			Help: "Time from a command's arrival to its answer being ready, by operation."},
		gauge(ISCSISessions, []string{"group", "volume"}, "iSCSI sessions of a volume."),
	}
}

// ioBuckets reach from a local NVMe's write to a stalled link.
func ioBuckets() []float64 {
	return []float64{50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.6e-3, 3.2e-3, 6.4e-3, 12.8e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}
}

func quorumMetrics() []Metric {
	group := []string{"group"}
	return []Metric{
		{Name: LeaseHeld, Kind: KindGauge, Service: "quorum", Labels: group, Help: "1 while this site holds the group's lease."},
		{Name: LeaseRemaining, Kind: KindGauge, Service: "quorum", Labels: group, Help: "How long the lease held here still goes on if it is not renewed; 0 when it is not held."},
		{Name: LeaseEpoch, Kind: KindGauge, Service: "quorum", Labels: group, Help: "Epoch held here, or else the newest seen."},
		{Name: LeaseChanges, Kind: KindCounter, Service: "quorum", Labels: []string{"group", "change"}, Help: "Leases of this site that were granted, lost or released."},
		{Name: Votes, Kind: KindCounter, Service: "quorum", Labels: []string{"group", "verb", "verdict"},
			Help: "Answers of this site's voter, by verb (probe, prepare, accept, renew, update, release): granted, busy (held by another) or rejected (a higher promise)."},
		{Name: VoterReachable, Kind: KindGauge, Service: "quorum", Labels: []string{"voter"}, Help: "1 while the voter answers this site."},
		{Name: QuorumReachable, Kind: KindGauge, Service: "quorum", Help: "1 while the voters that answer this site have more than half of the votes."},
		{Name: QuorumForced, Kind: KindGauge, Service: "quorum", Labels: group, Help: "1 while quorum of the group was forced and the configured votes do not all count again."},
		{Name: QuorumPrevented, Kind: KindGauge, Service: "quorum", Help: "1 while this site may join a quorum, and not form one."},
	}
}

func healthMetrics() []Metric {
	return []Metric{
		{Name: HealthObjects, Kind: KindGauge, Service: "health", Labels: []string{"kind", "state"}, Help: "Objects watched here, a path each, by kind and state (unknown, alive, suspect, dead)."},
		{Name: HealthSuspicion, Kind: KindGauge, Service: "health", Labels: []string{"peer", "path"}, Help: "Suspicion of a site, phi as a part of 8, by the link's history: 0 well, 1 dead."},
		{Name: HealthMissed, Kind: KindGauge, Service: "health", Labels: []string{"peer", "path"}, Help: "Heartbeats or answers of a site missed in a row now."},
		{Name: HealthAssessment, Kind: KindGauge, Service: "health", Labels: []string{"peer", "class"}, Help: "1 for what is concluded about a site: none, service, incident, disaster or link."},
		{Name: HealthSick, Kind: KindGauge, Service: "health", Help: "1 while this observer doubts itself: paused, overloaded or cut off."},
		{Name: ClockSkew, Kind: KindGauge, Service: "health", Labels: []string{"peer"}, Help: "How far the wall clock of a site's health service is ahead of this one, less the time its heartbeat was under way."},
	}
}

func runMetrics() []Metric {
	long := []float64{0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1800, 3600}
	step := []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1800}
	return []Metric{
		{Name: Runs, Kind: KindCounter, Service: "failover", Labels: []string{"kind", "result"}, Help: "Runs led here that ended, by kind (start, failover, switchover, failback) and result (done, failed)."},
		{Name: RunsActive, Kind: KindGauge, Service: "failover", Help: "Runs led here that have not ended."},
		{Name: RunDuration, Kind: KindHistogram, Service: "failover", Labels: []string{"kind", "result"}, Buckets: long, Help: "Time from a run's start to its end."},
		{Name: RunStepDuration, Kind: KindHistogram, Service: "failover", Labels: []string{"step", "result"}, Buckets: step, Help: "Time from a step's start to its end, by kind of step and result (done, failed)."},
		{Name: SiteDrained, Kind: KindGauge, Service: "failover", Help: "1 while the site takes no groups, since it is drained for maintenance."},
		{Name: DrainGroups, Kind: KindGauge, Service: "failover", Labels: []string{"state"}, Help: "Groups of the site's drain: pending, running, done (moved), failed, and stays (never to be moved). None while it is not drained."},
		{Name: RunLastRTO, Kind: KindGauge, Service: "failover", Labels: []string{"kind"},
			Help: "Recovery time of the last run of a kind that succeeded here: of a failover from the first missed heartbeat, of others from the start."},
		{Name: Declarations, Kind: KindGauge, Service: "failover", Labels: []string{"lost", "state"},
			Help: "Groups in declarations led here that have not ended, by lost site and state (suspected, confirmed, held_down, awaiting_approval, declared)."},
		{Name: DNSChanges, Kind: KindCounter, Service: "dns", Labels: []string{"result"}, Help: "Changes of names asked for, by result (changed, unchanged, refused, failed)."},
		{Name: DNSDuration, Kind: KindHistogram, Service: "dns", Buckets: []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10},
			Help: "Time until a change of a name was read back from its authority."},
		{Name: HostVMs, Kind: KindGauge, Service: "host", Labels: []string{"state"}, Help: "VMs of the host by state (starting, running, stopped, failed)."},
	}
}

func relayMetrics() []Metric {
	return []Metric{
		{Name: RelayConnections, Kind: KindGauge, Service: "relay", Labels: []string{"to"}, Help: "Connections to a site's NATS server that are relayed now."},
		{Name: RelayEnded, Kind: KindCounter, Service: "relay", Labels: []string{"to", "result"},
			Help: "Connections that ended, by result: relayed, unreached (the site's server did not answer), refused (no relay's client, or a site that is not relayed to) or busy (too many); the site is - where none was named."},
		{Name: RelayBytes, Kind: KindCounter, Service: "relay", Labels: []string{"to", "direction"}, Help: "Bytes relayed to a site's NATS server (to) and from it (from)."},
	}
}
