// Package config reads a site's configuration: one YAML file, decoded strictly. Every mistake is told with its line, its
// field and its mend, all of them at once.
package config

import (
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Config is everything one site needs to know. See deploy/examples/site-a.yaml for a commented sample.
type Config struct {
	Cluster string        `yaml:"cluster"` // name of the installation, the same at every site
	Site    domain.SiteID `yaml:"site"`
	DataDir string        `yaml:"data_dir"` // relative to the file's folder
	// RunDir is a folder in memory (tmpfs) where the site's voter keeps what it need not remember over a reboot, so that it votes
	// on at once when its service is started again. Empty: one below /dev/shm. What is not in memory is not used.
	RunDir  string  `yaml:"run_dir"`
	Timing  string  `yaml:"timing"` // default, fast
	NATS    NATS    `yaml:"nats"`
	Sites   []Site  `yaml:"sites"`
	Quorum  Quorum  `yaml:"quorum"`
	ISCSI   ISCSI   `yaml:"iscsi"`
	Journal Journal `yaml:"journal"`
	Copies  Copies  `yaml:"copies"`
	Links   []Link  `yaml:"links"` // to other sites, that are narrower than what may be sent over them
	Relay   Relay   `yaml:"relay"` // of this site, for others that do not reach one another
	Hosts   []Host  `yaml:"hosts"` // VM hosts of this site
	Health  Health  `yaml:"health"`
	DNS     DNS     `yaml:"dns"`
	Groups  []Group `yaml:"groups"` // seeds: written to desired state where it is empty
	// Replication is where the replicators of other sites send changes to this one's past NATS.
	Replication Replication `yaml:"replication"`
	// Support names the VMs that others need to be of use: directory, DNS, remote desktop. Plans should bring them up first.
	Support []domain.VMID `yaml:"support"`
	Plans   []Plan        `yaml:"plans"`
	// Declarations says how the loss of a site is decided on, where groups do not say it themselves.
	Declarations Declarations `yaml:"declarations"`
	Tracing      Tracing      `yaml:"tracing"`
	Metrics      Metrics      `yaml:"metrics"`
	Security     Security     `yaml:"security"`
	Log          Log          `yaml:"log"`
}

// Declarations says how the loss of a site is decided on.
type Declarations struct {
	ApprovalLasts Duration      `yaml:"approval_lasts"` // how long a person's approval counts: 1h
	Tiers         []TierDefault `yaml:"tiers"`          // what groups of a tier do that do not say it themselves
}

// TierDefault is the failover policy of the groups of a tier that have none of their own.
type TierDefault struct {
	Tier      int                   `yaml:"tier"`
	Failover  domain.FailoverPolicy `yaml:"failover"`
	Approvers int                   `yaml:"approvers"` // of confirm: 1 or 2
	HoldDown  Duration              `yaml:"hold_down"`
	Automatic domain.Automatic      `yaml:"automatic"` // bounds of auto
}

// NATS is this site's own server.
type NATS struct {
	Listen string `yaml:"listen"` // host:port of the embedded server; empty: the server runs elsewhere, as a container or unit of its own
	// Local is the server's URL as this site's own services reach it, where that differs from what sites says to others: the
	// way within a site must not depend on the link between sites.
	Local string `yaml:"local"`
	// Conf is a nats-server configuration (TLS, accounts, permissions) for the embedded server; holdfast site init writes one.
	Conf string `yaml:"conf"`
}

// Site is one site of the installation as seen from here.
type Site struct {
	ID    domain.SiteID   `yaml:"id"`
	Index int             `yaml:"index"` // 1 to 255, never given to another site
	Role  domain.SiteRole `yaml:"role"`
	NATS  string          `yaml:"nats"` // nats://host:port as this site reaches it
	DNS   string          `yaml:"dns"`  // host:port of its authority, for clients; data sites with a zone of their own
	// Via is the site by whose relay this site reaches it, where it has no way of its own there. NATS is then the address that
	// the server's certificate is for, and the relay knows a way there.
	Via   domain.SiteID `yaml:"via"`
	Relay string        `yaml:"relay"` // host:port of its relay, as this site reaches it
}

// Relay forwards connections of other sites to the NATS servers of sites that they do not reach. It sees what the network would.
type Relay struct {
	Listen string          `yaml:"listen"` // host:port; empty: nothing is relayed
	To     []domain.SiteID `yaml:"to"`     // where it may forward to, as this site reaches them
	// ConnectionsPerPeer bounds the connections of one address: a site has one for each of its services and VM hosts at the
	// destination, and one more for a command.
	ConnectionsPerPeer int `yaml:"connections_per_peer"`
}

// Replication is where a data site takes lines. Where it takes none, or none can be made, changes go by NATS.
type Replication struct {
	Listen string `yaml:"listen"` // host:port; empty: no lines
	// Address is the host:port that other sites are told, where they do not reach the address that is listened on.
	Address string `yaml:"address"`
}

// ISCSI is where volumes are served.
type ISCSI struct {
	Listen string `yaml:"listen"`
	// Portal is the host:port that initiators are told, where they do not reach the address that is listened on: in
	// containers, behind NAT.
	Portal string `yaml:"portal"`
	// CHAP is how VM hosts and this site's volumes prove themselves to one another. Left out, every initiator is let in. The
	// secrets stay in files: each service that needs them reads them on its own machine.
	CHAP CHAP `yaml:"chap"`
}

// CHAP names the credentials of iSCSI logins; see package chap for the files.
type CHAP struct {
	User             string `yaml:"user"`
	SecretFile       string `yaml:"secret_file"`
	MutualUser       string `yaml:"mutual_user"` // the target's, where it is to prove itself to hosts, too
	MutualSecretFile string `yaml:"mutual_secret_file"`
}

// Journal is the ring of each group at this site.
type Journal struct {
	Size Size `yaml:"size"`
}

// Link bounds what this site's replicator sends to another site, of all groups together. Groups share it by tier: 4 to 2 to 1 for
// tier 1, 2 and the others; what one leaves the others have. What synchronous targets stream counts, and is never held back.
type Link struct {
	To        domain.SiteID       `yaml:"to"`
	RateLimit domain.Rate         `yaml:"rate_limit"` // bytes a second, where no window of Schedule applies
	Schedule  []domain.RateWindow `yaml:"schedule"`   // the first that applies counts
}

// Transport is the link's rate as a transport has one.
func (l Link) Transport() domain.Transport {
	return domain.Transport{RateLimit: l.RateLimit, Schedule: l.Schedule}
}

// Copies says how this site, where it is primary, brings its targets' copies up and keeps an eye on them, and what it keeps for its own.
type Copies struct {
	ResyncRate Size     `yaml:"resync_rate"` // bytes a second that resyncs send, all groups together; 0: as fast as it goes
	ScrubEvery Duration `yaml:"scrub_every"` // how often each target's copy is compared with the primary's; 0: never by itself
	ScrubHeal  bool     `yaml:"scrub_heal"`  // what differs is written again from the primary, as holdfast verify --heal does
	ScrubRate  Size     `yaml:"scrub_rate"`  // bytes a second that are read for it at each side, all groups together; 0: as fast as it goes
	// CheckpointReserve is how many bytes of the disk of data_dir are kept free of what is written to open checkpoints here, as
	// replication needs them; 0: 5 % of the file system, 1 GiB at least, a quarter of it at most.
	CheckpointReserve Size `yaml:"checkpoint_reserve"`
}

// minReserve is one look's worth of what is written to an open checkpoint before the disk's room is looked at again.
const minReserve = 16 << 20

// Host is a VM host of this site.
type Host struct {
	ID       domain.HostID `yaml:"id"`
	Driver   string        `yaml:"driver"`   // embedded, qemu
	Probe    string        `yaml:"probe"`    // host:port of the agent's health page
	Separate bool          `yaml:"separate"` // the agent runs as a process of its own: holdfast host
	Rack     string        `yaml:"rack"`     // what it shares power and switches with; a rack whose hosts all fail is one incident
}

// Health says what this site's health service probes besides what it probes by itself.
type Health struct {
	// Vantages is how many sites' observers must have lost a site before its disaster is confirmed: 2, or more.
	Vantages int     `yaml:"vantages"`
	Probes   []Probe `yaml:"probes"`
}

// Probe is one probe of an object of this site. An object with several probes or heartbeats is as well as the best of them.
type Probe struct {
	Of      string   `yaml:"of"`      // host/NAME, service/NAME, storage/NAME, port/NAME
	Kind    string   `yaml:"kind"`    // tcp, http, iscsi, nats, libvirt, guest-agent
	Target  string   `yaml:"target"`  // host:port, a URL, iscsi://host[:port]/iqn/lun, or a libvirt URI with #DOMAIN
	Every   Duration `yaml:"every"`   // between two; a heartbeat's interval when not given
	Timeout Duration `yaml:"timeout"` // of one; twice Every when not given
	CHAP    CHAP     `yaml:"chap"`    // of an iSCSI login
}

// DNS is the zone names live in and who is its authority.
type DNS struct {
	Zone   string   `yaml:"zone"`   // for example dr.example.org
	Listen string   `yaml:"listen"` // host:port of this site's own authority; empty when Update is used
	TTL    Duration `yaml:"ttl"`
	Update *Update  `yaml:"update"`
}

// Update is an existing server that takes RFC 2136 updates.
type Update struct {
	Server   string `yaml:"server"`    // host:port
	KeyFile  string `yaml:"key_file"`  // as tsig-keygen writes it: name, algorithm and secret
	EpochTXT bool   `yaml:"epoch_txt"` // keep the epoch beside each name in a TXT record, as a second guard
}

// Group is a protection group as configured.
type Group struct {
	ID           domain.GroupID        `yaml:"id"`
	Tier         int                   `yaml:"tier"`
	Home         domain.SiteID         `yaml:"home"`
	Targets      []domain.Target       `yaml:"targets"`
	Durability   domain.Durability     `yaml:"durability"`
	OnTargetLoss domain.OnTargetLoss   `yaml:"on_target_loss"`
	Failover     domain.FailoverPolicy `yaml:"failover"`
	Approvers    int                   `yaml:"approvers"` // of failover confirm: 1 (by default) or 2
	Automatic    domain.Automatic      `yaml:"automatic"` // when, and how often a day, failover auto needs nobody
	HoldDown     Duration              `yaml:"hold_down"`
	RPO          Duration              `yaml:"rpo"`
	RTO          Duration              `yaml:"rto"`        // target; what else takes time is held against it by holdfast quorum check
	Congestion   domain.Congestion     `yaml:"congestion"` // overflow (by default), throttle
	Placement    Placement             `yaml:"placement"`  // which of its sites may serve it; any by default
	Checkpoints  Checkpoints           `yaml:"checkpoints"`
	Volumes      []Volume              `yaml:"volumes"`
	VMs          []domain.VM           `yaml:"vms"`
}

// Checkpoints is how each target of a group keeps its past.
type Checkpoints struct {
	Disabled bool     `yaml:"disabled"`  // keep none
	Every    Duration `yaml:"every"`     // between two, while writes come
	AppEvery Duration `yaml:"app_every"` // between two for which the guests are held still; none by default
	Keep     Keep     `yaml:"keep"`
}

// Keep bounds what is kept of checkpoints; whichever bound is met first counts.
type Keep struct {
	Age   Duration `yaml:"age"`
	Count int      `yaml:"count"`
	Bytes Size     `yaml:"bytes"` // on disk, at each target
}

func (c Checkpoints) domain() domain.Checkpoints {
	return domain.Checkpoints{Disabled: c.Disabled, Every: time.Duration(c.Every), AppEvery: time.Duration(c.AppEvery),
		Keep: domain.Keep{Age: time.Duration(c.Keep.Age), Count: c.Keep.Count, Bytes: int64(c.Keep.Bytes)}}
}

// checkpointsOf is the way back from domain.
func checkpointsOf(d domain.Checkpoints) Checkpoints {
	return Checkpoints{Disabled: d.Disabled, Every: Duration(d.Every), AppEvery: Duration(d.AppEvery),
		Keep: Keep{Age: Duration(d.Keep.Age), Count: d.Keep.Count, Bytes: Size(d.Keep.Bytes)}}
}

// Volume is a volume as configured.
type Volume struct {
	ID   domain.VolumeID `yaml:"id"`
	Size Size            `yaml:"size"`
}

// Plan is a recovery plan as configured.
type Plan = domain.Plan

// Tracing says where traces go.
type Tracing struct {
	OTLP string `yaml:"otlp"` // host:port of a collector's gRPC port; empty: off
	// CA is a PEM file the collector's certificate must come from; empty: the system's CAs. A collector within the site (a
	// loopback or private address, or a name without a domain) is reached without TLS when no CA is given.
	CA       string `yaml:"ca"`
	Insecure bool   `yaml:"insecure"` // without TLS although the collector is elsewhere
	// UI is the address of the Jaeger pages, for the links that holdfast run show prints, as http://jaeger.example.org:16686.
	UI string `yaml:"ui"`
}

// Trace is the address of a trace's page; empty when no pages are configured.
func (t Tracing) Trace(id string) string {
	if t.UI == "" || id == "" {
		return ""
	}
	return strings.TrimSuffix(t.UI, "/") + "/trace/" + id
}

// Metrics says where each service tells its health and its metrics.
type Metrics struct {
	// Listen is host:port for /healthz and /metrics. Services that run as processes of their own on one machine need a port
	// each: Ports gives a service another one.
	Listen string            `yaml:"listen"`
	Ports  map[string]string `yaml:"ports"` // by service name: host:port
}

// Address is where a service (as in site.Services, host-ID for a VM host's agent, or site for all in one process) answers
// /healthz and /metrics; empty is nowhere.
func (m Metrics) Address(service string) string {
	if own := m.Ports[service]; own != "" {
		return own
	}
	return m.Listen
}

// Security says how this site proves itself to the others.
type Security struct {
	// Secrets is the folder of this site's certificates and credentials, as holdfast site init makes it. Empty: no TLS and no
	// credentials, which is allowed on loopback addresses only.
	Secrets string `yaml:"secrets"`
}

// Log says how much is logged.
type Log struct {
	Level string `yaml:"level"` // debug, info, warn, error
}

// Default is what a field is when the file does not say.
func Default() Config {
	return Config{
		Cluster: "main",
		Timing:  "default",
		NATS:    NATS{},
		Quorum:  Quorum{Model: "node_majority"},
		ISCSI:   ISCSI{Listen: "127.0.0.1:3260"},
		Health:  Health{Vantages: 2},
		Journal: Journal{Size: 256 << 20},
		Relay:   Relay{ConnectionsPerPeer: 128},
		DNS:     DNS{TTL: Duration(5 * time.Second)},
		Log:     Log{Level: "info"},

		Declarations: Declarations{ApprovalLasts: Duration(time.Hour)},
	}
}

// withGroupDefaults fills what a group leaves out.
func withGroupDefaults(g Group, d Declarations) Group {
	if g.Tier == 0 {
		g.Tier = 2
	}
	if i := slices.IndexFunc(d.Tiers, func(t TierDefault) bool { return t.Tier == g.Tier }); i >= 0 && g.Failover == "" {
		t := d.Tiers[i]
		g.Failover = t.Failover
		if g.Approvers == 0 {
			g.Approvers = t.Approvers
		}
		if g.HoldDown == 0 {
			g.HoldDown = t.HoldDown
		}
		if len(g.Automatic.Windows) == 0 && g.Automatic.PerDay == 0 {
			g.Automatic = t.Automatic
		}
	}
	if g.Durability == "" {
		g.Durability = domain.DurabilityStrict
	}
	if g.OnTargetLoss == "" {
		g.OnTargetLoss = domain.TargetLossDegrade
	}
	if g.Failover == "" {
		g.Failover = domain.FailoverManual
	}
	if g.HoldDown == 0 {
		g.HoldDown = Duration(30 * time.Second)
	}
	g.Checkpoints = checkpointsOf(g.Checkpoints.domain().WithDefaults())
	return g
}

// Domain is the group as the domain has it.
func (g Group) Domain() domain.Group {
	out := domain.Group{ID: g.ID, Tier: g.Tier, Home: g.Home, Targets: g.Targets, Durability: g.Durability,
		OnTargetLoss: g.OnTargetLoss, Failover: g.Failover, Approvers: g.Approvers, Automatic: g.Automatic, HoldDown: time.Duration(g.HoldDown), RPO: time.Duration(g.RPO), Congestion: g.Congestion, Placement: g.Placement.domain(), VMs: g.VMs,
		Checkpoints: g.Checkpoints.domain()}
	for _, v := range g.Volumes {
		out.Volumes = append(out.Volumes, domain.Volume{ID: v.ID, SizeBytes: int64(v.Size)})
	}
	return out
}

// Self is this site's own entry of Sites.
func (c Config) Self() Site {
	for _, s := range c.Sites {
		if s.ID == c.Site {
			return s
		}
	}
	return Site{}
}
