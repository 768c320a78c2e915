package event

import (
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
)

// Definition is one kind of event.
type Definition struct {
	Entity, Fact string
	Publisher    string      // service; "host" is the agent of a VM host
	When         string      // it is published, one sentence
	New          func() Fact // an empty payload, to decode into
	Example      func() Fact // a payload as one is published
}

// Type is the CloudEvents type: hf.v1.<entity>.<fact>.
func (d Definition) Type() string { return "hf.v1." + d.Entity + "." + d.Fact }

// Lookup finds a definition.
func Lookup(entity, fact string) (Definition, bool) {
	for _, d := range Catalogue() {
		if d.Entity == entity && d.Fact == fact {
			return d, true
		}
	}
	return Definition{}, false
}

// says is one fact and when it is published.
type says struct{ fact, when string }

// def defines the facts of one entity that share a payload type. example is handed the fact it is to show.
func def[T any, P interface {
	*T
	Fact
}](publisher, entity string, example func(fact string) T, facts ...says) []Definition {
	out := make([]Definition, 0, len(facts))
	for _, f := range facts {
		out = append(out, Definition{
			Entity: entity, Fact: f.fact, Publisher: publisher, When: f.when,
			New:     func() Fact { return P(new(T)) },
			Example: func() Fact { x := example(f.fact); return P(&x) },
		})
	}
	return out
}

// Catalogue lists every kind of event, in the order of the documentation.
func Catalogue() []Definition {
	var all []Definition
	for _, part := range [][]Definition{
		disasters(), declarations(), incidents(), groups(), votes(), prevented(), runs(), machines(), names(), desired(), objects(),
	} {
		all = append(all, part...)
	}
	return all
}

func disasters() []Definition {
	return append(
		def("health", "disaster", exampleDisaster,
			says{"suspected", "One observer sees a whole site gone; the others have not confirmed it."},
			says{"confirmed", "Two or more observers, on two paths, see a whole site gone."},
			says{"over", "A site that was lost is seen again."}),
		def("failover", "disaster", exampleDeclared,
			says{"declared", "A policy after its hold-down, or a person, decided that a site is lost; a failover run begins."})...)
}

func declarations() []Definition {
	return def("failover", "declaration", exampleDeclaration,
		says{api.DeclarationSuspected, "A site that has groups this one would take over is missed, or its loss is not confirmed any more."},
		says{api.DeclarationConfirmed, "The loss is confirmed; of a group with failover manual: it waits for a person, and nobody is asked."},
		says{api.DeclarationHeldDown, "The hold-down of groups began."},
		says{api.DeclarationAwaiting, "People are asked to approve that groups are taken over."},
		says{api.DeclarationOpened, "A person said that a site is lost."},
		says{api.DeclarationApproved, "A person approved that groups are taken over."},
		says{api.DeclarationExpired, "Approvals count no more: they are too old, were for another epoch, or for an attempt that failed."},
		says{api.DeclarationDeclared, "Groups are to be taken over: enough was approved, or their policy asks nobody. disaster.declared follows with each run."},
		says{api.DeclarationWithdrawn, "Groups are not taken over: the site is seen again, it is another site's to decide, or a person withdrew it."},
		says{api.DeclarationOver, "Groups are served elsewhere, and their run ended."})
}

func incidents() []Definition {
	var all []Definition
	for _, part := range [][]Definition{
		def("health", "incident", exampleIncident,
			says{"opened", "Part of a site is hurt (a host, a rack, a service); local high availability deals with it."},
			says{"closed", "Nothing of the site is hurt any more."}),
		def("health", "evidence", exampleEvidence,
			says{"recorded", "An incident, a disaster or a lost link was concluded; this is who saw what, when, with which confidence."}),
		def("health", "observer", exampleObserver,
			says{"doubted", "A site's observer was paused, runs late or is cut off: what it sees counts for nobody until it is trusted again."},
			says{"trusted", "A site's observer has run on time for long enough after it doubted itself."}),
		def("health", "maintenance", exampleMaintenance,
			says{"announced", "A person announced maintenance of a part: it raises no incident until the window ends."},
			says{"ended", "A maintenance window is over, or was ended by a person."}),
	} {
		all = append(all, part...)
	}
	return all
}

func groups() []Definition {
	var all []Definition
	for _, part := range [][]Definition{
		def("quorum", "group", exampleLease,
			says{"epoch_granted", "A majority of votes made this site primary for a group, under a new epoch."},
			says{"lease_lost", "This site could not renew its lease in time: it serves no more."},
			says{"lease_released", "This site gave its lease up for a successor, in a planned move."}),
		def("quorum", "group", exampleForced,
			says{"quorum_forced", "Two operators made this site primary with the voters they named, where no majority could be had. Nothing else votes until it is healed."},
			says{"quorum_healed", "The configured votes all count again after quorum was forced."}),
		def("quorum", "group", examplePhase,
			says{"quorum_phase_changed", "A candidacy for a group's lease entered a new phase."}),
		def("quorum", "group", exampleInSync,
			says{"in_sync_changed", "A majority of voters holds a new set of sites that may take a group over without loss."}),
		def("replicator", "group", exampleReplica,
			says{"promoted", "This site's copy became primary and is served over iSCSI."},
			says{"demoted", "This site's copy stopped being primary, everything it had is at its successor."},
			says{"fenced", "This site's copy refuses every epoch lower than the event's, for good."},
			says{"serving_stopped", "This site no longer serves the group's volumes; the detail says why."},
			says{"target_lost", "The primary goes on without a target that does not answer."},
			says{"target_stalled", "A target that had everything takes no writes any more, or has no room for what a resync is to send; the detail says why. It is tried again by itself. Every ten seconds at most."},
			says{"target_overflowed", "The journal let go of writes that a target lacks: it needs a resync. The blocks are noted, or there was no room for that."},
			says{"held", "What the copy is to write waits for room on the disk, for room in the journal, or for a synchronous target; the detail says which, and why. It goes on by itself."},
			says{"resumed", "What waited goes on; the detail says for how long it did."},
			says{"damage_found", "Something that the copy keeps or received is not what was written; the detail names it. Nothing of it was used: it is sent or read again from elsewhere."},
			says{"copy_failed", "The copy stopped for good: a disk failed, or an invariant is broken. The detail says which; others go on."},
			says{"target_streaming", "A target has everything and receives each write as it happens."},
			says{"target_ended", "The policy wants nothing more sent to a target; the detail says what becomes of its copy."},
			says{"policy_adopted", "The primary goes by a changed policy; the detail says which targets change, and how."},
			says{"volume_added", "A volume was added to the group, by the change with the event's LSN, and is served; the detail says which."},
			says{"volume_removed", "A volume was removed from the group, by the change with the event's LSN; what it held is kept at each site."},
			says{"resync_started", "The primary began to send a target what differs."},
			says{"resync_progressed", "A resync goes on; the event says how far it is, its rate and the time left. Every ten seconds."},
			says{"resync_completed", "A target has what it lacked; the event says how much was sent."},
			says{"checkpoint_created", "A mark was put into the group's order: it is a checkpoint at every target, at exactly the LSN. The detail has its kind and label."},
			says{"checkpoint_failed", "An application-consistent checkpoint, asked for or due, could not be made; the detail says why, and what there is instead. Its LSN is that of a crash-consistent one that was made, or of the copy's last change."},
			says{"checkpoint_opened", "A checkpoint's volumes are served, writable, under names of their own; replication goes on."},
			says{"checkpoint_closed", "A checkpoint's volumes are no longer served; what was written to them is gone."},
			says{"rolled_back", "The copy was brought back to a checkpoint, to be promoted there; what came after is in quarantine."},
			says{"checkpoints_ended", "This site serves the group, and all the checkpoints that its copy had are older than any is kept: they are gone."},
			says{"checkpoints_lost", "A copy gave checkpoints up that it should have kept; the detail says how many and why. Replication goes on."}),
		def("replicator", "group", exampleQuarantine,
			says{"writes_quarantined", "Writes that another epoch overtook were kept aside at this site."}),
		def("replicator", "group", exampleVerified,
			says{"verify_started", "The primary began to compare a target's copy with its own, while writes go on."},
			says{"verify_progressed", "A comparison goes on; the event says how far it is, its rate and the time left. Every ten seconds."},
			says{"verify_mismatch", "A stretch of a target's volume is not what the primary's is at the same LSN."},
			says{"verify_healed", "A stretch that differed was written again in the group's order, and is right at the target now."},
			says{"verify_completed", "A target's whole copy was compared; the event says how much differed."},
			says{"verify_failed", "A comparison ended before its end, or found the primary's journal damaged; the detail says why."}),
		def("replicator", "group", exampleDiscarded,
			says{"quarantine_discarded", "Somebody discarded, for good, writes that had been kept aside at this site."}),
	} {
		all = append(all, part...)
	}
	return append(all, def("health", "link", exampleRefused,
		says{"refused", "The site's NATS server refused a connection: it showed no certificate, or one that is not trusted, or the wrong credentials."})...)
}

func votes() []Definition {
	return def("quorum", "quorum", exampleWarning,
		says{"warning_raised", "The planner found what the field advises against in who votes, at the start of the service or since. See docs/operations/quorum.md."},
		says{"warning_cleared", "What the planner warned of is so no longer."})
}

func prevented() []Definition {
	return def("quorum", "site", examplePrevented,
		says{"quorum_prevented", "An operator keeps this site from forming a quorum: it may join one, and holds no lease it does not hold already."},
		says{"quorum_allowed", "This site may form a quorum again."})
}

func runs() []Definition {
	return append(
		def("failover", "run", exampleRun,
			says{"started", "A run of a plan began."},
			says{"completed", "A run ended with every step done."},
			says{"failed", "A run ended with a step that could not be done."}),
		def("failover", "run", exampleStep,
			says{"step_started", "A step of a run began; a repeat after a restart of the service has the same id."},
			says{"step_done", "A step of a run has had its effect."},
			says{"step_failed", "A step of a run was given up."})...)
}

func machines() []Definition {
	return append(
		def("host", "vm", exampleVM,
			says{"started", "A VM runs on a host."},
			says{"stopped", "A VM ended on a host, by itself or because it was asked to."},
			says{"killed", "A host's agent ended a VM at once, because the group's lease ran out or a higher epoch was seen."},
			says{"freeze_expired", "A guest that was held still for a checkpoint was let go on by its host, since nobody asked in time: the checkpoint is not application-consistent."}),
		def("failover", "vm", exampleVM,
			says{"answered", "A VM that a run started answers at its service port."})...)
}

func names() []Definition {
	return def("dns", "name", exampleName,
		says{"changed", "A DNS name points at a new address, read back from its authority."},
		says{"refused", "A change of a DNS name was refused: the old value or the epoch was another."})
}

func desired() []Definition {
	const when = "A new version of desired state was written at the site that may write it."
	return append(
		def("failover", "group", exampleDesired("group", "erp"), says{"desired_changed", when}),
		slices.Concat(
			def("failover", "plan", exampleDesired("plan", "main"), says{"desired_changed", when}),
			def("failover", "site", exampleDesired("site", "b"), says{"desired_changed", when}),
			def("failover", "site", exampleDrain,
				says{"drain_started", "A person has a site drained: it takes no groups, and hands over those it has."},
				says{"drained", "Every group of a drained site has moved, or stays for the reason that the event gives."},
				says{"undrained", "A site takes groups again."}))...)
}

func objects() []Definition {
	var all []Definition
	for _, kind := range []string{"site", "link", "rack", "replicator", "storage", "service", "host", "vm", "port"} {
		all = append(all, def("health", kind, exampleObject(kind),
			says{"suspected", "An observer missed answers of a " + kind + "."},
			says{"lost", "An observer takes a " + kind + " for dead."},
			says{"recovered", "An observer sees a " + kind + " answer again."})...)
	}
	return append(all, nodes()...)
}

func nodes() []Definition {
	return append(
		def("health", "site", exampleClock,
			says{"clock_skewed", "The wall clock of a service or host of a site is too far from the observer's. Leases are not affected; certificates, signatures and times in reports are."},
			says{"clock_agreed", "A clock that was too far off is near the observer's again."}),
		def("health", "site", exampleVersion,
			says{"version_refused", "A service or host of a site speaks another major version of the protocol: it and the observer's site refuse one another's requests."},
			says{"version_accepted", "A service or host that was refused for its protocol version speaks one that is accepted."})...)
}
