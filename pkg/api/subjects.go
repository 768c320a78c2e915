package api

import (
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Token makes any text a single NATS subject token: lower case, with '.', ' ', '*' and '>' as '_'.
func Token(s string) string {
	return strings.NewReplacer(".", "_", " ", "_", "*", "_", ">", "_").Replace(strings.ToLower(strings.TrimSuffix(s, ".")))
}

// QuerySubject is where a service of a site answers a verb.
func QuerySubject(site domain.SiteID, service, verb string) string {
	return "hf.v1.api." + string(site) + "." + service + "." + verb
}

// HostService is the service name of a VM host's agent.
func HostService(h domain.HostID) string { return "host-" + string(h) }

// EventSubject is where a fact of a site is published: hf.v1.evt.<site>.<entity>.<id>.<past_fact>.
func EventSubject(site domain.SiteID, entity, id, fact string) string {
	return "hf.v1.evt." + string(site) + "." + entity + "." + Token(id) + "." + fact
}

// HeartbeatSubject is where a node of a site says that it lives. Published on every site's server. Core only.
func HeartbeatSubject(site domain.SiteID, node string) string {
	return "hf.v1.hb." + string(site) + "." + node
}

// VoteSubject is where a voter answers a verb of the vote. Core only.
func VoteSubject(voter, verb string) string { return "hf.v1.vote." + voter + "." + verb }

// PipeSubject carries a group's frames of one epoch, in the target site's domain.
func PipeSubject(g domain.GroupID, e domain.Epoch) string {
	return "hf.v1.pipe." + string(g) + "." + strconv.FormatInt(int64(e), 10)
}

// DirectSubject carries them to a synchronous target's replicator past the stream. Core only.
func DirectSubject(g domain.GroupID, e domain.Epoch) string { return PipeSubject(g, e) + ".direct" }

// PipeStream is the stream behind PipeSubject. The epoch is in the name: a name is never used twice.
func PipeStream(g domain.GroupID, e domain.Epoch) string {
	return "HF_PIPE_" + string(g) + "_e" + strconv.FormatInt(int64(e), 10)
}

// PositionSubject carries positions of a group at a site: published by the target on its own server, and by the
// primary on every target's server (its head, for the loss estimate). Core only.
func PositionSubject(g domain.GroupID, site domain.SiteID) string {
	return "hf.v1.pos." + string(g) + "." + string(site)
}

// CommandSubject carries a command to the site that carries it out.
func CommandSubject(site domain.SiteID, entity, id, verb string) string {
	return "hf.v1.cmd." + string(site) + "." + entity + "." + Token(id) + "." + verb
}

// RunSubject carries one step record of a run: hf.v1.run.<plan>.<run>.<step>.
func RunSubject(p domain.PlanID, r domain.RunID, step string) string {
	return "hf.v1.run." + string(p) + "." + string(r) + "." + Token(step)
}

// Streams and buckets, one of each in every site's own domain.
const (
	StreamEvents   = "HF_EVENTS"
	StreamRuns     = "HF_RUNS"
	StreamAudit    = "HF_AUDIT"
	StreamCommands = "HF_COMMANDS"
	BucketDesired  = "HF_DESIRED" // keys group.<id>, plan.<id>
	BucketPosition = "HF_POS"     // keys <group>.<site>
)
