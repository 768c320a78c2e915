package event

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// The examples of the documentation tell one story: site a of the sites a, b and w is lost, b takes group erp over.

const exampleRunID = "01JD8Q4ZK3W9V6X2T5N7B1C4HE"

func exampleAt(second int) time.Time { return time.Date(2026, 11, 23, 1, 30, second, 120e6, time.UTC) }

func exampleEpoch() domain.Epoch { return domain.NewEpoch(0, 2, 2) }

func exampleAssessment(class, text string) api.Assessment {
	return api.Assessment{Site: "a", Class: class, Objects: []string{"site/a"}, Since: exampleAt(0), Seen: []domain.SiteID{"b", "w"},
		Evidence: []api.Observation{exampleObservation("site", "b"), exampleObservation("site", "w")}, Text: text}
}

func exampleObservation(kind string, observer domain.SiteID) api.Observation {
	ids := map[string]string{"site": "a", "host": "a-h1", "vm": "erp-db", "link": "a", "service": "quorum", "rack": "r1", "storage": "array"}
	id, ok := ids[kind]
	if !ok {
		id = api.ServiceReplicator
	}
	return api.Observation{Kind: kind, ID: id, Site: "a", State: api.StateDead, Since: exampleAt(3), Path: "heartbeat",
		Detail: "6 beats missed", Missed: 6, FirstMissed: exampleAt(0), Observer: observer}
}

func exampleObject(kind string) func(string) ObjectChanged {
	return func(fact string) ObjectChanged {
		o := exampleObservation(kind, "")
		switch fact {
		case "suspected":
			o.State = api.StateSuspect
		case "recovered":
			o.State, o.Missed, o.Detail, o.FirstMissed = api.StateAlive, 0, "", time.Time{}
		}
		return ObjectChanged{What: kind, Fact: fact, Observer: "b", Object: o, FirstMissed: o.FirstMissed}
	}
}

func exampleIncident(fact string) IncidentChanged {
	a := api.Assessment{Site: "a", Class: api.ClassIncident, Objects: []string{"host/a-h1"}, Since: exampleAt(0), Seen: []domain.SiteID{"a"},
		Evidence: []api.Observation{exampleObservation("host", "a")}, Text: "host a-h1 does not answer"}
	if fact == "closed" {
		a = api.Assessment{Site: "a", Class: api.ClassNone, Since: exampleAt(40), Seen: []domain.SiteID{"a"}, Text: "all of it answers"}
	}
	return IncidentChanged{Fact: fact, Observer: "a", Assessment: a, FirstMissed: exampleAt(0)}
}

func exampleEvidence(string) EvidenceRecorded {
	d := exampleDisaster("confirmed")
	e := api.Evidence{ID: "b-mi9k3x2q", Site: "b", At: exampleAt(3), Entity: "disaster", Fact: "confirmed", Assessment: d.Assessment, FirstMissed: d.FirstMissed}
	for _, o := range d.Assessment.Evidence {
		e.Witnesses = append(e.Witnesses, api.Witness{Observer: o.Observer, Confidence: 1, Counted: true, Observations: []api.Observation{o}})
	}
	e.Assessment.Evidence = nil
	return EvidenceRecorded{Evidence: e}
}

func exampleObserver(fact string) ObserverChanged {
	if fact == "trusted" {
		return ObserverChanged{Fact: fact, Observer: "w", Confidence: 1}
	}
	return ObserverChanged{Fact: fact, Observer: "w", Confidence: 0.1, Doubts: []string{"it was paused for 20s"}}
}

func exampleMaintenance(fact string) MaintenanceChanged {
	m := api.Maintenance{ID: "b-mi9k3x2r", About: api.Part{Kind: "host", Site: "b", ID: "b-h1"}, From: exampleAt(0), Until: exampleAt(0).Add(time.Hour),
		Why: "new memory", By: "b.operator", Claimed: "alice"}
	if fact == "ended" {
		m.Ended = exampleAt(50)
	}
	return MaintenanceChanged{Fact: fact, Site: "b", Window: m}
}

func exampleDisaster(fact string) DisasterChanged {
	a := exampleAssessment(api.ClassDisaster, "site a does not answer on any path")
	if fact == "suspected" {
		a.Seen, a.Evidence = a.Seen[:1], a.Evidence[:1]
	}
	return DisasterChanged{Fact: fact, Observer: "b", Assessment: a, FirstMissed: exampleAt(0)}
}

func exampleWarning(fact string) QuorumWarned {
	w := QuorumWarned{Fact: fact, Cluster: "main", Site: "b", Code: "Q20", Severity: "warning", About: "a"}
	if fact == "warning_raised" {
		w.Text = "after the loss of primary site a the others have no quorum (2 of 5 votes)"
		w.Consequence = "no other site can take its groups over by itself: a person has to force quorum"
		w.Mend = "add a witness or share in a third place, or take votes from site a"
	}
	return w
}

func exampleClock(fact string) ClockChanged {
	c := ClockChanged{Fact: fact, Observer: "b", Site: "a", Node: "quorum", OffsetSeconds: 0.2, LimitSeconds: 2,
		Text: "the clocks of quorum of site a and of the health service of site b agree again"}
	if fact == "clock_skewed" {
		c.OffsetSeconds, c.Text = 7.1, "the clock of quorum of site a is 7.1 s ahead of that of the health service of site b (limit 2s): set the clocks by NTP"
	}
	return c
}

func exampleVersion(fact string) VersionChanged {
	v := VersionChanged{Fact: fact, Observer: "b", Site: "a", Node: "failover", Theirs: "1.1", Ours: "1.0"}
	if fact == "version_refused" {
		v.Theirs, v.Text = "2.0", "the peer speaks protocol 2.0, this service 1.0: major versions do not work together: upgrade this service"
	}
	return v
}

func exampleLoss() api.LossEstimate {
	return api.LossEstimate{Known: true, Writes: 12, Bytes: 49152, Seconds: 0.4, AsOf: exampleAt(0), Text: "0.4 s, 48 KiB"}
}

func exampleDeclared(string) DisasterDeclared {
	return DisasterDeclared{Site: "a", By: "policy", Reason: "confirmed by b, w; hold-down passed", Groups: []domain.GroupID{"erp"},
		Estimate: map[domain.GroupID]api.LossEstimate{"erp": exampleLoss()}, Run: exampleRunID}
}

func exampleDeclaration(fact string) DeclarationChanged {
	d := DeclarationChanged{Fact: fact, ID: "01JD8Q4ZK3W9V6X2T5N7B1C4HE-a", Site: "a", Leader: "b", State: fact, Groups: []domain.GroupID{"erp"}, By: "policy",
		Why: "site a is lost: its services' heartbeats ended at b, w, and its server answers no request of b, w"}
	switch fact {
	case api.DeclarationAwaiting:
		d.Why = "its policy asks two people (failover: confirm, approvers: 2)"
	case api.DeclarationOpened, api.DeclarationApproved:
		d.State, d.By, d.ClaimedBy, d.Why = api.DeclarationAwaiting, "b.operator", "ann", "the fire brigade says so"
	case api.DeclarationExpired:
		d.State, d.Why = api.DeclarationAwaiting, "the word of b.operator counts for 1h0m0s"
	case api.DeclarationWithdrawn:
		d.Why = "site a is seen again"
	case api.DeclarationOver:
		d.Why = "run " + exampleRunID + " is done"
	}
	return d
}

func exampleLease(fact string) LeaseChanged {
	l := LeaseChanged{Fact: fact, Group: "erp", Site: "b", Epoch: exampleEpoch()}
	switch fact {
	case "epoch_granted":
		l.InSync, l.Voters = []domain.SiteID{"a", "b"}, []string{"b", "w"}
	case "lease_lost":
		l.Reason = "expired"
	case "lease_released":
		l.Reason = "a"
	}
	return l
}

func examplePhase(string) PhaseChanged {
	return PhaseChanged{Group: "erp", Site: "b", Phase: "tally", Votes: 2, Needed: 2, Voters: []string{"a: silent", "b: ok", "w: ok"}}
}

func exampleInSync(string) InSyncChanged {
	return InSyncChanged{Group: "erp", Site: "b", Epoch: exampleEpoch(), InSync: []domain.SiteID{"b"}, Seq: 4}
}

func exampleReplica(fact string) ReplicaChanged {
	r := ReplicaChanged{Fact: fact, Group: "erp", Site: "b", Epoch: exampleEpoch(), LSN: 1042}
	switch fact {
	case "promoted":
		r.Detail = exampleLoss().Text
	case "demoted", "target_lost", "target_streaming":
		r.Target = "a"
	case "target_stalled":
		r.Target, r.Detail = "a", "3 times since it was told last: target a is silent for 2.1s: unavailable"
	case "target_overflowed":
		r.Target, r.Detail = "a", "the ring let go of what it lacks; which blocks that is, is noted"
	case "held":
		r.Detail = "disk: apply LSN 1043: no space left on device"
	case "resumed":
		r.Detail = "disk: after 42.2s"
	case "damage_found":
		r.Detail = "frame from the pipe of epoch 0.2.1 refused, it is sent again: bad frame: payload CRC of entry 3"
	case "copy_failed":
		r.Detail = "apply to the volumes: input/output error"
	case "resync_started", "resync_completed", "resync_progressed":
		r.Target, r.Bytes, r.Volume = "a", 196608, 128<<20
	case "target_ended":
		r.Target, r.Detail = "a", "nothing more is sent; the copy at site a stays as it is, a whole prefix of the group's writes up to LSN 1042"
	case "policy_adopted":
		r.Detail = "a from sync to async"
	case "volume_added":
		r.Detail = "archive, 10737418240 bytes"
	case "volume_removed":
		r.Detail = "archive; what it held stays in archive.e257.1042.img at every site"
	case "serving_stopped":
		r.Detail = "demoted"
	case "checkpoint_created":
		r.Site, r.Detail = "a", "crash before the upgrade"
	case "checkpoint_failed":
		r.Site, r.Detail = "a", "hold VM erp-db on host a-h1: no guest agent answers; crash-consistent checkpoint 1042 stands in for it"
	case "checkpoint_opened":
		r.Detail = "2 volumes"
	case "checkpoints_ended":
		r.Detail = "12 checkpoints: this site serves, and they are older than any is kept"
	case "checkpoints_lost":
		r.Detail = "1 checkpoints: no space left on the disk"
	}
	return r
}

func exampleQuarantine(string) WritesQuarantined {
	return WritesQuarantined{Item: api.Quarantined{ID: "erp-e257-1031-1031", Group: "erp", Site: "a", Epoch: domain.NewEpoch(0, 1, 1), FirstLSN: 1031, LastLSN: 1031, Writes: 1,
		Bytes: 4096, From: exampleAt(0), To: exampleAt(0), Path: "/var/lib/holdfast/replicator/erp/quarantine/erp-e257-1031-1031", Count: 1, Volumes: []api.QuarantinedVolume{{ID: "data", SizeBytes: 128 << 20}},
		Extents: []api.QuarantinedExtent{{Volume: "data", Offset: 8192, Length: 4096, LSN: 1031, Time: exampleAt(0)}}}}
}

func exampleVerified(fact string) CopyVerified {
	v := CopyVerified{Fact: fact, Group: "erp", Site: "a", Target: "b", Epoch: domain.NewEpoch(0, 1, 1), Bytes: 16 << 20, Total: 128 << 20}
	switch fact {
	case "verify_started":
		v.Bytes = 0
	case "verify_mismatch", "verify_healed":
		v.Volume, v.Offset, v.Length, v.LSN, v.Differ = "data", 8192, 4096, 1042, 4096
	case "verify_completed":
		v.Bytes, v.Differ = v.Total, 4096
	case "verify_progressed":
		v.Detail = "49.8 MiB/s, 2s left"
	case "verify_failed":
		v.Detail = "target b does not follow"
	}
	if fact == "verify_healed" {
		v.Healed = 4096
	}
	return v
}

func exampleDiscarded(string) WritesDiscarded {
	item := exampleQuarantine("").Item
	item.Extents = nil
	return WritesDiscarded{Item: item, By: "a.operator", Claimed: "kim", Why: "the owner of erp took over what was needed"}
}

func exampleRun(fact string) RunChanged {
	r := api.Run{ID: exampleRunID, Plan: "main", Kind: api.RunFailover, Leader: "b", From: "a", State: api.StepRunning,
		Reason: "confirmed by b, w; hold-down passed", By: "policy", Epochs: map[domain.GroupID]domain.Epoch{"erp": exampleEpoch()},
		Before: map[domain.GroupID]domain.Epoch{"erp": domain.NewEpoch(0, 1, 1)}, Steps: []api.Step{exampleStep("step_" + fact).Step}, Started: exampleAt(5),
		TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	switch fact {
	case "completed":
		r.State, r.Ended = api.StepDone, exampleAt(8)
	case "failed":
		r.State, r.Ended, r.Error, r.Code = api.StepFailed, exampleAt(8), r.Steps[0].Error, r.Steps[0].Code
	}
	return RunChanged{Fact: fact, Run: r}
}

func exampleStep(fact string) StepChanged {
	s := api.Step{ID: "promote.erp", Kind: "promote", Group: "erp", State: api.StepRunning, Attempts: 1, Started: exampleAt(6), Needs: []string{"acquire.erp"}}
	switch fact {
	case "step_done", "step_completed":
		s.State, s.Ended = api.StepDone, exampleAt(7)
	case "step_failed":
		s.State, s.Ended, s.Code = api.StepFailed, exampleAt(7), "refused"
		s.Error = "promote group erp: refused: the copy is incomplete"
	}
	return StepChanged{Fact: fact, Run: exampleRunID, Plan: "main", Step: s}
}

func exampleVM(fact string) VMChanged {
	v := VMChanged{Fact: fact, Site: "b", Host: "b-h1", VM: api.HostVM{VM: "erp-db", Group: "erp", Epoch: exampleEpoch(), State: "running",
		Instance: "01JD8Q50B2", Address: "10.2.0.10", Port: 8080, Started: exampleAt(7)}}
	switch fact {
	case "stopped":
		v.VM.State = "stopped"
	case "killed":
		v.VM.State, v.Reason = "stopped", "the lease is over"
		v.VM.Error = v.Reason
	case "freeze_expired":
		v.Reason = "nobody asked for the thaw within 5s"
	}
	return v
}

func exampleName(fact string) NameChanged {
	n := NameChanged{Fact: fact, Name: "erp.example.org", Type: "A", Before: "10.1.0.10", After: "10.2.0.10", TTL: 5, Group: "erp",
		Epoch: exampleEpoch(), AuthoritySeconds: 0.012}
	if fact == "refused" {
		n.AuthoritySeconds, n.Reason = 0, "change erp.example.org: stale epoch: 0.3.1 has been seen"
	}
	return n
}

func exampleDrain(fact string) SiteDrainChanged {
	d := SiteDrainChanged{Fact: fact, Site: "b", By: "operator of site b", Reason: "new power supplies",
		Runs:  []api.DrainRun{{ID: "01JQXA7Z8N0000000000000001", Plan: "main", To: "a", Groups: []domain.GroupID{"erp"}, State: api.StepPending}},
		Stays: []api.DrainStay{{Group: "log", Why: "group log is served at [b] only, not at site a (placement.pinned)"}}}
	if fact != "drain_started" {
		d.Runs[0].State = api.StepDone
	}
	return d
}

func exampleDesired(what, id string) func(string) DesiredChanged {
	return func(string) DesiredChanged {
		d := DesiredChanged{What: what, ID: id, Epoch: exampleEpoch(), Version: 3}
		if what == "group" {
			d.Site = "b"
		}
		return d
	}
}

func exampleRefused(fact string) LinkRefused {
	return LinkRefused{Fact: fact, Site: "a", Address: "192.0.2.66", Reason: "TLS Handshake Failure", At: exampleAt(3), Count: 4}
}
