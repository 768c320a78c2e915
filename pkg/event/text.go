package event

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Text tells an event in one line for people. An event this version does not know is told by its type and payload.
func Text(e Event, f Fact) string {
	parts := []string{strings.TrimPrefix(e.Type, "hf.v1."), string(e.Data)}
	switch f := f.(type) {
	case *ObjectChanged:
		parts = []string{f.What, f.Object.ID, "of site", string(f.Object.Site), words(f.Fact), bracket("by " + f.Object.Path), f.Object.Detail}
	case *IncidentChanged:
		parts = []string{"incident at site", string(f.Assessment.Site), words(f.Fact) + ":", f.Assessment.Text}
	case *DisasterChanged:
		parts = []string{"loss of site", string(f.Assessment.Site), words(f.Fact) + ",", "seen by", join(f.Assessment.Seen), bracket(f.Assessment.Text)}
	case *DisasterDeclared:
		parts = []string{"disaster at site", string(f.Site), "declared by", f.By, "for", join(f.Groups) + ":", f.Reason}
	case *DeclarationChanged:
		parts = []string{"declaration", string(f.ID) + ":", "loss of site", string(f.Site) + ",", words(f.Fact) + ",", join(f.Groups), "at site", string(f.Leader), "by", f.By, bracket(f.Why)}
	case *LeaseChanged:
		parts = []string{"group", string(f.Group) + ":", words(f.Fact), "epoch", f.Epoch.String(), "at site", string(f.Site), bracket(f.Reason)}
	case *PhaseChanged:
		parts = []string{"group", string(f.Group) + ":", "site", string(f.Site), "is", words(f.Phase) + ",", fmt.Sprintf("%d of %d votes", f.Votes, f.Needed), bracket(f.Detail)}
	case *InSyncChanged:
		parts = []string{"group", string(f.Group) + ":", "in sync are", join(f.InSync), "under epoch", f.Epoch.String()}
	default:
		if more := append(textOfPeers(f), textOfWork(f)...); more != nil {
			parts = more
		}
	}
	return line(parts)
}

// textOfPeers tells what is wrong between two ends of a link.
func textOfPeers(f Fact) []string {
	switch f := f.(type) {
	case *ClockChanged:
		return []string{"site", string(f.Site) + ",", f.Node + ":", words(f.Fact) + ",", fmt.Sprintf("%+.1f s", f.OffsetSeconds), "as site", string(f.Observer), "sees it", bracket(f.Text)}
	case *QuorumWarned:
		return []string{"quorum of", f.Cluster + ":", f.Code, words(f.Fact), "at site", string(f.Site), bracket(f.Severity), f.About, bracket(f.Text)}
	case *QuorumForced:
		parts := []string{"group", string(f.Group) + ":", words(f.Fact), "at site", string(f.Site) + ",", "epoch", f.Epoch.String() + ",", "votes:", strings.Join(f.Voters, ", ")}
		if f.By != "" {
			parts = append(parts, "asked by", f.By+",", "approved by", f.Approver, bracket(f.Why))
		}
		return parts
	case *QuorumPrevented:
		return []string{"site", string(f.Site) + ":", words(f.Fact), "by", f.By, bracket(f.Why)}
	case *VersionChanged:
		return []string{"site", string(f.Site) + ",", f.Node + ":", words(f.Fact) + ",", "it speaks", f.Theirs + ",", "site", string(f.Observer), "speaks", f.Ours, bracket(f.Text)}
	case *EvidenceRecorded:
		a := f.Evidence.Assessment
		return []string{"evidence", f.Evidence.ID, "recorded:", f.Evidence.Entity, words(f.Evidence.Fact), "of site", string(a.Site) + ",", a.Text}
	case *ObserverChanged:
		return []string{"observer of site", string(f.Observer), words(f.Fact) + ",", fmt.Sprintf("confidence %.1f", f.Confidence), bracket(strings.Join(f.Doubts, "; "))}
	case *MaintenanceChanged:
		return []string{"maintenance of", f.Window.About.String(), words(f.Fact) + ",", "until", f.Window.Until.Format(time.RFC3339), bracket(f.Window.Why)}
	case *LinkRefused:
		return []string{"link to site", string(f.Site), words(f.Fact) + ":", "from", f.Address, fmt.Sprintf("%d times", f.Count), bracket(f.Reason)}
	}
	return nil
}

// textOfWork tells the facts of those who act.
func textOfWork(f Fact) []string {
	switch f := f.(type) {
	case *ReplicaChanged:
		target := ""
		if f.Target != "" {
			target = "(other site " + string(f.Target) + ")"
		}
		return []string{"group", string(f.Group), "at site", string(f.Site) + ":", words(f.Fact), target, "epoch", f.Epoch.String(),
			fmt.Sprintf("lsn %d", f.LSN), sent(f), bracket(f.Detail)}
	case *WritesQuarantined:
		return []string{"group", string(f.Item.Group), "at site", string(f.Item.Site) + ":", fmt.Sprintf("%d diverged writes, %d bytes,", f.Item.Writes, f.Item.Bytes), "kept aside in", f.Item.Path}
	case *CopyVerified:
		return []string{"group", string(f.Group), "at site", string(f.Target), "compared with site", string(f.Site) + ":", words(f.Fact), place(f), fmt.Sprintf("%d of %d bytes compared, %d differ, %d healed", f.Bytes, f.Total, f.Differ, f.Healed), bracket(f.Detail)}
	case *WritesDiscarded:
		return []string{"group", string(f.Item.Group), "at site", string(f.Item.Site) + ":", fmt.Sprintf("%d diverged writes, %d bytes,", f.Item.Writes, f.Item.Bytes), "quarantine discarded by", f.By, bracket(f.Why)}
	case *RunChanged:
		return []string{"run", string(f.Run.ID), f.Run.Kind, "of plan", string(f.Run.Plan), "to site", string(f.Run.Leader), words(f.Fact), bracket(f.Run.Error)}
	case *StepChanged:
		return []string{"run", string(f.Run) + ":", words(f.Fact), f.Step.ID, bracket(f.Step.Error)}
	case *VMChanged:
		return []string{"vm", string(f.VM.VM), words(f.Fact), "on host", string(f.Host), "of site", string(f.Site) + ",", "epoch", f.VM.Epoch.String(), bracket(f.Reason)}
	case *NameChanged:
		before := f.Before
		if before == "" {
			before = "nothing"
		}
		return []string{"name", f.Name, f.Type, words(f.Fact) + ":", before, "->", f.After, bracket(f.Reason)}
	case *SiteDrainChanged:
		return []string{"site", string(f.Site), words(f.Fact) + ":", fmt.Sprintf("%d runs, %d groups stay", len(f.Runs), len(f.Stays)), bracket(f.Reason)}
	case *DesiredChanged:
		return []string{f.What, f.ID + ":", fmt.Sprintf("version %d of desired state, epoch %s", f.Version, f.Epoch)}
	}
	return nil
}

func place(f *CopyVerified) string {
	if f.Volume == "" {
		return ""
	}
	return fmt.Sprintf("in volume %s, %d bytes at %d, LSN %d;", f.Volume, f.Length, f.Offset, f.LSN)
}

func sent(f *ReplicaChanged) string {
	if f.Volume == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d bytes sent", f.Bytes, f.Volume)
}

// line joins what is not empty, on one line whatever the parts hold.
func line(parts []string) string {
	return strings.Join(strings.Fields(strings.Join(parts, " ")), " ")
}

func words(fact string) string { return strings.ReplaceAll(fact, "_", " ") }

func bracket(s string) string {
	if s == "" {
		return ""
	}
	return "(" + s + ")"
}

func join[T ~string](items []T) string {
	var out []string
	for _, i := range items {
		out = append(out, string(i))
	}
	return strings.Join(out, ", ")
}

// Groups lists the groups that a fact concerns; none for facts about sites, hosts and their parts.
func Groups(f Fact) []domain.GroupID {
	switch f := f.(type) {
	case *DisasterDeclared:
		return f.Groups
	case *DeclarationChanged:
		return f.Groups
	case *LeaseChanged:
		return []domain.GroupID{f.Group}
	case *PhaseChanged:
		return []domain.GroupID{f.Group}
	case *InSyncChanged:
		return []domain.GroupID{f.Group}
	case *ReplicaChanged:
		return []domain.GroupID{f.Group}
	case *WritesQuarantined:
		return []domain.GroupID{f.Item.Group}
	case *CopyVerified:
		return []domain.GroupID{f.Group}
	case *WritesDiscarded:
		return []domain.GroupID{f.Item.Group}
	case *RunChanged:
		return groupsOf(f.Run)
	case *StepChanged:
		return []domain.GroupID{f.Step.Group}
	case *VMChanged:
		return []domain.GroupID{f.VM.Group}
	case *NameChanged:
		return []domain.GroupID{f.Group}
	case *DesiredChanged:
		if f.What == "group" {
			return []domain.GroupID{domain.GroupID(f.ID)}
		}
	}
	return nil
}

func groupsOf(r api.Run) []domain.GroupID {
	var out []domain.GroupID
	for _, s := range r.Steps {
		if s.Group != "" && !slices.Contains(out, s.Group) {
			out = append(out, s.Group)
		}
	}
	return out
}

// Publisher is who published an event, "a/quorum" or "a/host-a-h1".
func Publisher(e Event) string { return strings.TrimPrefix(e.Source, "/site/") }
