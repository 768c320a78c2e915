package access

import (
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// Permissions is what a principal may publish and subscribe to at a server. What is not listed is refused.
type Permissions struct {
	Publish   []string
	Deny      []string // taken out of Publish again
	Subscribe []string
	// Answer lets it publish to the reply subject of a message that it received, once, within AnswerTime: answers, and the
	// acknowledgements of messages out of a stream.
	Answer bool
}

// Streams lists the streams of a site's own that every service finds made: quorum makes them.
func Streams() []string {
	return []string{api.StreamEvents, api.StreamRuns, api.StreamAudit, api.StreamCommands, kv(api.BucketDesired), kv(api.BucketPosition)}
}

func kv(bucket string) string { return "KV_" + bucket }

// js is a subject of the JetStream API. It is checked after the server has taken its own domain out of it, so that a
// permission cannot name a domain: that is why there are two sets of permissions, one for the own site's server.
func js(op string) string { return "$JS.API." + op }

// Home gives the permissions of a principal at its own site's server; a server takes those of its own site only.
func Home(p Principal) Permissions {
	switch p.Service {
	case Reader, Operator:
		return Away(p)
	case Monitor:
		return Permissions{Publish: []string{"$SYS.REQ.SERVER.PING.CONNZ"}, Subscribe: []string{p.InboxPrefix() + ".>"}}
	}
	out := Away(p)
	out.Answer = true
	for _, c := range Calls(p.Kind()) {
		if c.At == Own {
			out.Publish = append(out.Publish, callSubjects(p, c)...)
		}
	}
	out.Publish = append(out.Publish, facts(p)...)
	out.Subscribe = append(out.Subscribe, "hf.v1.api."+string(p.Site)+"."+p.Service+".*", "$SRV.*", "$SRV.*.hf-"+p.Service, "$SRV.*.hf-"+p.Service+".*")
	switch p.Kind() {
	case api.ServiceQuorum:
		quorumHome(p, &out)
	case api.ServiceHealth:
		healthHome(p, &out)
	case api.ServiceReplicator:
		replicatorHome(p, &out)
	case api.ServiceFailover:
		failoverHome(p, &out)
	}
	return sorted(out)
}

// Away gives the permissions of a principal at every other site's server.
func Away(p Principal) Permissions {
	switch p.Service {
	case Reader:
		return Permissions{Subscribe: []string{"hf.v1.evt.>"}}
	case Monitor:
		return Permissions{}
	}
	out := Permissions{Subscribe: []string{p.InboxPrefix() + ".>"}}
	for _, c := range Calls(p.Kind()) {
		if c.At == Any {
			out.Publish = append(out.Publish, callSubjects(p, c)...)
		}
	}
	switch p.Kind() {
	case api.ServiceQuorum:
		out.Publish = append(out.Publish, api.HeartbeatSubject(p.Site, p.Service), api.VoteSubject("*", "*"))
	case api.ServiceHealth, api.ServiceDNS:
		out.Publish = append(out.Publish, api.HeartbeatSubject(p.Site, p.Service))
	case kindHost:
		out.Publish = append(out.Publish, api.HeartbeatSubject(p.Site, p.Service[len(hostPrefix):]))
	case api.ServiceReplicator:
		out.Publish = append(out.Publish, api.HeartbeatSubject(p.Site, p.Service), "hf.v1.pipe.*.*", "hf.v1.pipe.*.*.direct", "hf.v1.pos.*.*", js("STREAM.INFO.*"))
		out.Subscribe = append(out.Subscribe, "hf.v1.pos.*.*", "hf.v1.pipe.*.*.direct")
	case api.ServiceFailover:
		out.Publish = append(out.Publish, api.HeartbeatSubject(p.Site, p.Service))
		failoverAway(&out)
	case Operator:
		operatorReads(&out)
	}
	return sorted(out)
}

func sorted(p Permissions) Permissions {
	for _, s := range []*[]string{&p.Publish, &p.Deny, &p.Subscribe} {
		slices.Sort(*s)
		*s = slices.Compact(*s)
	}
	return p
}

// callSubjects are where the calls go. A host's agent is any service at its site that has the verb: which hosts there are
// may change, and MayCall is checked where the call lands.
func callSubjects(p Principal, c Call) []string {
	site, to := p.Site, c.To
	if c.At == Any {
		site = "*"
	}
	if to == kindHost {
		to = "*"
	}
	out := make([]string, 0, len(c.Verbs))
	for _, v := range c.Verbs {
		out = append(out, api.QuerySubject(site, to, v))
	}
	return out
}

// facts are the events that the catalogue says this kind of service publishes, of its own site.
func facts(p Principal) []string {
	var out []string
	for _, d := range event.Catalogue() {
		if d.Publisher == p.Kind() {
			out = append(out, "hf.v1.evt."+string(p.Site)+"."+d.Entity+".*."+d.Fact)
		}
	}
	return out
}

// quorumHome: it makes the site's streams and buckets, and answers for its voter.
func quorumHome(p Principal, out *Permissions) {
	out.Publish = append(out.Publish, js("INFO"))
	for _, s := range Streams() {
		out.Publish = append(out.Publish, js("STREAM.CREATE."+s), js("STREAM.UPDATE."+s), js("STREAM.INFO."+s))
	}
	out.Publish = append(out.Publish, auditAppend(p.Site)...)
	out.Subscribe = append(out.Subscribe, api.VoteSubject(string(p.Site), "*"))
}

func streamsThere() []string {
	out := []string{js("INFO")}
	for _, s := range Streams() {
		out = append(out, js("STREAM.INFO."+s))
	}
	return out
}

// follow is reading a stream in order through a consumer.
func follow(stream string) []string {
	return []string{js("STREAM.INFO." + stream), js("CONSUMER.CREATE." + stream + ".>"), js("CONSUMER.INFO." + stream + ".*"),
		js("CONSUMER.MSG.NEXT." + stream + ".*"), js("CONSUMER.DELETE." + stream + ".*"), "$JS.ACK." + stream + ".>"}
}

// last is reading the newest message of a subject.
func last(stream string) []string {
	return []string{js("STREAM.INFO." + stream), js("STREAM.MSG.GET." + stream)}
}

// readBucket is reading and watching a bucket.
func readBucket(bucket string) []string {
	s := kv(bucket)
	return append(follow(s), js("STREAM.MSG.GET."+s), js("DIRECT.GET."+s), js("DIRECT.GET."+s+".>"), "$JS.FC."+s+".>")
}

func auditAppend(site domain.SiteID) []string {
	return append(last(api.StreamAudit), "hf.v1.audit."+string(site)+".>")
}

// healthHome: it hears every heartbeat, reads what it told before, and keeps what it is asked to do in the audit.
func healthHome(p Principal, out *Permissions) {
	out.Publish = append(out.Publish, auditAppend(p.Site)...)
	out.Publish = append(out.Publish, streamsThere()...)
	out.Publish = append(out.Publish, last(api.StreamEvents)...)
	out.Publish = append(out.Publish, readBucket(api.BucketDesired)...)
	out.Subscribe = append(out.Subscribe, "hf.v1.hb.>")
}

// replicatorHome: it makes, reads and removes the pipes at its own site. A pipe's stream is named after its group and epoch,
// which a wildcard cannot say: it may touch any stream here but those that quorum makes.
func replicatorHome(p Principal, out *Permissions) {
	out.Publish = append(out.Publish, js("STREAM.NAMES"))
	for _, op := range []string{"STREAM.CREATE.", "STREAM.DELETE.", "STREAM.PURGE."} {
		out.Publish = append(out.Publish, js(op+"*"))
		for _, s := range Streams() {
			out.Deny = append(out.Deny, js(op+s))
		}
	}
	for _, op := range []string{"CONSUMER.CREATE.*.replicator", "CONSUMER.CREATE.*.replicator.>", "CONSUMER.INFO.*.replicator", "CONSUMER.MSG.NEXT.*.replicator",
		"CONSUMER.DELETE.*.replicator"} {
		out.Publish = append(out.Publish, js(op))
	}
	out.Publish = append(out.Publish, "$JS.ACK.*.replicator.>")
	out.Publish = append(out.Publish, streamsThere()...)
	out.Publish = append(out.Publish, readBucket(api.BucketDesired)...)
	out.Publish = append(out.Publish, auditAppend(p.Site)...)
}

// failoverAway: it copies desired state and the runs that it leads to every site, and reads what the others saw.
func failoverAway(out *Permissions) {
	out.Publish = append(out.Publish, readBucket(api.BucketDesired)...)
	out.Publish = append(out.Publish, "$KV."+api.BucketDesired+".>", "hf.v1.run.*.*.*")
	out.Publish = append(out.Publish, last(api.StreamRuns)...)
	out.Publish = append(out.Publish, last(api.StreamEvents)...)
}

// failoverHome: it follows its site's events and takes its commands.
func failoverHome(p Principal, out *Permissions) {
	out.Publish = append(out.Publish, streamsThere()...)
	out.Publish = append(out.Publish, follow(api.StreamEvents)...)
	out.Publish = append(out.Publish, follow(api.StreamCommands)...)
	out.Publish = append(out.Publish, auditAppend(p.Site)...)
}

// operatorReads: events, runs, audit and desired state of every site, beside the calls it may make.
func operatorReads(out *Permissions) {
	out.Publish = append(out.Publish, streamsThere()...)
	for _, s := range []string{api.StreamEvents, api.StreamRuns, api.StreamAudit} {
		out.Publish = append(out.Publish, follow(s)...)
		out.Publish = append(out.Publish, last(s)...)
	}
	out.Publish = append(out.Publish, readBucket(api.BucketDesired)...)
}
