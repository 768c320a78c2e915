package planner

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// Input is what an installation is configured to be.
type Input struct {
	From   domain.SiteID // whose configuration this is
	Model  core.Model
	Timing core.Timing
	Sites  []Site
	Voters []Voter
	Groups []domain.Group
	Plans  []domain.Plan
	RTO    map[domain.GroupID]time.Duration // targets, of the groups that have one
	TTL    time.Duration                    // of the names; 0: no names are moved
	Hosts  []Host                           // of the sites whose hosts are known
	// Support names the VMs that others need to be of use.
	Support []domain.VMID
	Live    *Live // nil: no site was asked
}

// Site is a site that stores, or only votes.
type Site struct {
	ID   domain.SiteID
	Role domain.SiteRole
	Via  domain.SiteID // by whose relay From reaches it; empty: by itself
}

// Voter is one voter and where it stands.
type Voter struct {
	core.Member
	Site       domain.SiteID // empty: at none of the sites
	Unsaid     bool          // nothing was said of it: where it stands, and who else counts on it
	On         []string      // what it needs to live: host, array, power feed
	VM         domain.VMID   // that it runs in
	Replicated domain.Mode   // how its storage is copied elsewhere; empty: not known
	Own        string        // its LUN is this installation's own volume, as host:port of the target
	Clusters   []string      // other installations that count on it
}

// Host is a VM host.
type Host struct {
	ID   domain.HostID
	Gate bool // what runs on it asks for the lease at each acknowledgement
}

// Live is what running sites know.
type Live struct {
	Voters map[core.VoterID]Seen
	Groups []Vote
	Files  map[domain.SiteID]core.Weights // what the file of each site that answers gives the voters
}

// Seen is a voter as the sites see it.
type Seen struct {
	RTT         time.Duration // 99th percentile, of the site that sees it worst
	Samples     int           // 0: the round trip is not known
	LUN         string        // identity of the voting disk; empty: none, or not seen
	Conformance string        // ConformanceOK, or what is wrong; empty: not probed
}

// ConformanceOK is the outcome of a probe that found a passive voter's storage to swap as it must.
const ConformanceOK = "ok"

// Vote is the vote of a group as it stands.
type Vote struct {
	Group  domain.GroupID
	Epoch  domain.Epoch
	Config core.Config // in force; no weights: not known
}
