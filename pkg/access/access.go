// Package access is the table of who may do what: for each principal, which is one service of one site, the NATS subjects
// it may publish and subscribe to, and the verbs it may call. It is pure. pkg/identity writes the subjects into user
// credentials, which every site's server enforces; pkg/bus checks the verbs where a request lands.
package access

import (
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Principals beside the services: a person at the command line, a tool outside that reads events, and what reads the
// server's own account of refused connections.
const (
	Operator = "operator"
	Reader   = "reader"
	Monitor  = "monitor"

	hostPrefix = kindHost + "-"
)

// Account is the NATS account a principal belongs to.
type Account string

// The accounts of an installation.
const (
	AccountServices Account = "HF"
	AccountReaders  Account = "HF_READ"
	AccountSystem   Account = "SYS"
)

// Principal is one service of one site. Its text form is <site>.<service>, also the common name of its certificate.
type Principal struct {
	Site    domain.SiteID
	Service string
}

// String is <site>.<service>.
func (p Principal) String() string { return string(p.Site) + "." + p.Service }

// ParsePrincipal reads what String wrote.
func ParsePrincipal(s string) (Principal, bool) {
	site, service, ok := strings.Cut(s, ".")
	if !ok || !domain.ValidToken(site) || !validService(service) {
		return Principal{}, false
	}
	return Principal{domain.SiteID(site), service}, true
}

func validService(s string) bool {
	if h, ok := strings.CutPrefix(s, hostPrefix); ok {
		return domain.ValidToken(h)
	}
	return slices.Contains(known(), s)
}

func known() []string {
	return []string{api.ServiceQuorum, api.ServiceHealth, api.ServiceReplicator, api.ServiceFailover, api.ServiceDNS, Monitor, Operator, Reader}
}

// Kind is the service without what tells one from another of its kind: "host" for a VM host's agent.
func (p Principal) Kind() string {
	if strings.HasPrefix(p.Service, hostPrefix) {
		return kindHost
	}
	return p.Service
}

// Account is the NATS account the principal connects to.
func (p Principal) Account() Account {
	switch p.Service {
	case Reader:
		return AccountReaders
	case Monitor:
		return AccountSystem
	}
	return AccountServices
}

// InboxPrefix is where replies to the principal go; no other may listen there.
func (p Principal) InboxPrefix() string { return "_INBOX_" + string(p.Site) + "_" + p.Service }

// Services lists the principals of a site of a role with those VM hosts.
func Services(role domain.SiteRole, hosts []domain.HostID) []string {
	out := []string{api.ServiceQuorum, api.ServiceHealth}
	if role == domain.SiteData {
		out = append(out, api.ServiceReplicator, api.ServiceFailover, api.ServiceDNS)
		for _, h := range hosts {
			out = append(out, hostPrefix+string(h))
		}
	}
	return append(out, Monitor, Operator, Reader)
}

// AnswerTime is how long after a request its answer may be published.
const AnswerTime = 2 * time.Minute
