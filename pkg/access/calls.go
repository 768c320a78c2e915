package access

import (
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Scope is where a call may go.
type Scope string

// The scopes.
const (
	Own Scope = "own site"
	Any Scope = "any site"
)

// kindHost is the kind of every VM host's agent.
const kindHost = "host"

// Call is a permission to call verbs of a service.
type Call struct {
	To    string // the kind of service
	At    Scope
	Verbs []string
}

// Calls lists what a kind of principal may call. The verbs are those of package api.
func Calls(kind string) []Call {
	switch kind {
	case api.ServiceHealth:
		return []Call{
			{kindHost, Own, []string{api.VerbStatus}},
			{api.ServiceHealth, Any, []string{api.VerbView}},
		}
	case api.ServiceReplicator:
		return []Call{
			{api.ServiceQuorum, Own, []string{api.VerbLease, api.VerbInSync}},
			{kindHost, Own, []string{api.VerbStatus, api.VerbFreeze, api.VerbThaw}},
			{api.ServiceReplicator, Any, []string{api.VerbRejoin, api.VerbUnfollow, api.VerbResyncBegin, api.VerbResyncCommit, api.VerbResyncData, api.VerbResyncHash, api.VerbVerifyHash, api.VerbVerifyExact, api.VerbProbe}},
		}
	case api.ServiceFailover:
		return []Call{
			{api.ServiceQuorum, Own, []string{api.VerbCampaign, api.VerbStatus}},
			{api.ServiceQuorum, Any, []string{api.VerbLease, api.VerbRelease}},
			{api.ServiceReplicator, Own, []string{api.VerbPromote, api.VerbProtect, api.VerbEstimate}},
			{api.ServiceReplicator, Any, []string{api.VerbDemote, api.VerbStatus}},
			{api.ServiceDNS, Own, []string{api.VerbChange, api.VerbLookup}},
			{api.ServiceHealth, Own, []string{api.VerbStatus}},
			{kindHost, Own, []string{api.VerbStart, api.VerbStop, api.VerbStatus}},
			{api.ServiceFailover, Any, []string{api.VerbEvacuate, api.VerbRunShow, api.VerbTake}},
		}
	case api.ServiceDNS:
		return []Call{
			{api.ServiceQuorum, Own, []string{api.VerbLease}},
			{api.ServiceDNS, Any, []string{api.VerbRecords, api.VerbMerge}},
		}
	case kindHost:
		return []Call{{api.ServiceQuorum, Own, []string{api.VerbLease}}}
	case Operator:
		return []Call{
			{api.ServiceQuorum, Any, []string{api.VerbStatus, api.VerbForce, api.VerbApprove, api.VerbPrevent}},
			{api.ServiceHealth, Any, []string{api.VerbStatus, api.VerbView, api.VerbEvidence, api.VerbMaintain}},
			{api.ServiceReplicator, Any, []string{api.VerbStatus, api.VerbEstimate, api.VerbQuarantine, api.VerbCheckpointList, api.VerbCheckpointCreate,
				api.VerbCheckpointOpen, api.VerbCheckpointClose, api.VerbCheckpointRead}},
			{api.ServiceReplicator, Any, []string{api.VerbQuarantineRead, api.VerbQuarantineDiscard, api.VerbVolumeDiscard, api.VerbVerify, api.VerbWrites, api.VerbSurvey}},
			{api.ServiceFailover, Any, []string{api.VerbRunStart, api.VerbRunList, api.VerbRunShow, api.VerbGroupList, api.VerbGroupSet, api.VerbDrain, api.VerbUndrain, api.VerbStatus}},
			{api.ServiceFailover, Any, []string{api.VerbDeclarationList, api.VerbDeclarationShow, api.VerbDeclarationOpen, api.VerbDeclarationApprove, api.VerbDeclarationWithdraw}},
			{api.ServiceDNS, Any, []string{api.VerbLookup, api.VerbRecords}},
			{kindHost, Any, []string{api.VerbStatus}},
		}
	}
	return nil
}

// MayCall reports whether caller may call a verb of a service at a site.
func MayCall(caller Principal, at domain.SiteID, service, verb string) bool {
	kind := Principal{at, service}.Kind()
	return slices.ContainsFunc(Calls(caller.Kind()), func(c Call) bool {
		return c.To == kind && (c.At == Any || caller.Site == at) && slices.Contains(c.Verbs, verb)
	})
}

// ReadsOnly reports whether a verb changes nothing, so that hearing it twice does no harm.
func ReadsOnly(verb string) bool {
	return slices.Contains([]string{api.VerbLease, api.VerbStatus, api.VerbView, api.VerbEvidence, api.VerbEstimate, api.VerbQuarantine, api.VerbQuarantineRead, api.VerbVerifyHash, api.VerbVerifyExact, api.VerbCheckpointList, api.VerbCheckpointRead, api.VerbRunList, api.VerbRunShow,
		api.VerbDeclarationList, api.VerbDeclarationShow, api.VerbGroupList, api.VerbLookup, api.VerbRecords, api.VerbWrites}, verb)
}

// MaySend reports whether caller may send a request to a subject: a call to where a verb is answered, a vote.
func MaySend(caller Principal, subject string) bool {
	t := strings.Split(subject, ".")
	switch {
	case len(t) == 6 && strings.HasPrefix(subject, "hf.v1.api."):
		return MayCall(caller, domain.SiteID(t[3]), t[4], t[5])
	case len(t) == 5 && strings.HasPrefix(subject, "hf.v1.vote."):
		return caller.Service == api.ServiceQuorum
	}
	return false
}
