package event

import (
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Values lists what a text field of a payload may hold, by Go type and field ("Observation.State"), or by Go type where
// every field of the type is meant ("Mode"). New values may come within v1; none goes.
func Values() map[string][]string {
	steps := []string{api.StepPending, api.StepRunning, api.StepDone, api.StepFailed}
	codes := []string{"stale_epoch", "no_lease", "refused", "conflict", "invalid", "no_quorum", "not_found", "unavailable", "internal"}
	return map[string][]string{
		"Observation.State":   {api.StateUnknown, api.StateAlive, api.StateSuspect, api.StateDead},
		"Observation.Kind":    {"site", "link", "rack", "replicator", "storage", "service", "host", "vm", "port"},
		"Assessment.Class":    {api.ClassNone, api.ClassService, api.ClassIncident, api.ClassDisaster, api.ClassWAN},
		"Assessment.Disaster": {api.DisasterSuspected, api.DisasterConfirmed, api.DisasterAnswering},
		"DeclarationChanged.State": {api.DeclarationSuspected, api.DeclarationConfirmed, api.DeclarationHeldDown, api.DeclarationAwaiting, api.DeclarationDeclared,
			api.DeclarationWithdrawn, api.DeclarationOver},
		"PhaseChanged.Phase": {"idle", "contacting", "comparing", "tally", "waiting", "bringing_up", "functional"},
		"Run.Kind":           {api.RunStart, api.RunFailover, api.RunSwitchover, api.RunFailback},
		"Run.State":          steps,
		"Run.Code":           codes,
		"Step.State":         steps,
		"Step.Code":          codes,
		"HostVM.State":       {"starting", "running", "stopped", "failed"},
		"NameChanged.Type":   {"A", "AAAA"},
		"Mode":               {string(domain.ModeSync), string(domain.ModeAsync), string(domain.ModeNone)},
		"Role":               {string(domain.RoleIdle), string(domain.RolePrimary), string(domain.RoleTarget)},
	}
}
