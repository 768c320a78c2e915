package domain

import (
	"slices"
	"time"
)

// Role is what a site is for one group.
type Role string

const (
	// RoleIdle neither serves nor receives.
	RoleIdle Role = "idle"
	// RolePrimary serves the group's volumes under an epoch and a lease.
	RolePrimary Role = "primary"
	// RoleTarget receives the group's changes.
	RoleTarget Role = "target"
)

// SiteRole tells a data site (stores and runs) from a witness site (only votes).
type SiteRole string

const (
	// SiteData stores volumes and runs VMs.
	SiteData SiteRole = "data"
	// SiteWitness only votes.
	SiteWitness SiteRole = "witness"
)

// Mode is how a group's changes reach a target site.
type Mode string

const (
	// ModeSync completes a write when it is durable at both sites.
	ModeSync Mode = "sync"
	// ModeAsync completes a write when it is durable at the primary; it follows within the RPO target.
	ModeAsync Mode = "async"
	// ModeNone sends nothing.
	ModeNone Mode = "none"
)

// Durability is what GOOD means to the initiator.
type Durability string

const (
	// DurabilityStrict makes every write durable before GOOD.
	DurabilityStrict Durability = "strict"
	// DurabilityCached declares a volatile write cache: durable at SYNCHRONIZE CACHE and FUA.
	DurabilityCached Durability = "cached"
)

// OnTargetLoss says what a sync group does when its target goes.
type OnTargetLoss string

const (
	// TargetLossSuspend keeps waiting: no loss, no service.
	TargetLossSuspend OnTargetLoss = "suspend"
	// TargetLossDegrade goes on alone once the shrunken in-sync set is committed in the quorum's register.
	TargetLossDegrade OnTargetLoss = "degrade"
)

// Congestion says what a primary does when an asynchronous target cannot follow.
type Congestion string

const (
	// CongestionOverflow lets the ring go: what the target lacks becomes a bitmap, and the writer never waits. The empty value
	// means the same.
	CongestionOverflow Congestion = "overflow"
	// CongestionThrottle lets the writer wait for a target that is there, so that the target lacks no more than the ring holds. For
	// one that is lost nobody waits.
	CongestionThrottle Congestion = "throttle"
)

// FailoverPolicy says who may declare a disaster for a group.
type FailoverPolicy string

const (
	// FailoverAuto fails over by itself after the hold-down.
	FailoverAuto FailoverPolicy = "auto"
	// FailoverConfirm asks people after the hold-down, and fails over once as many as Approvers says approve.
	FailoverConfirm FailoverPolicy = "confirm"
	// FailoverManual waits for a person to declare, and asks nobody.
	FailoverManual FailoverPolicy = "manual"
)

// MaxApprovers is how many people a group can be made to ask for.
const MaxApprovers = 2

// Automatic bounds what FailoverAuto does without a person. Outside of the bounds one person's approval is asked for. The zero
// value bounds nothing.
type Automatic struct {
	Windows []Window `json:"windows,omitempty" yaml:"windows"` // when it may; none: always
	PerDay  int      `json:"per_day,omitempty" yaml:"per_day"` // in 24 hours, at one site, at most; 0: as often as it comes
}

// Allowed reports whether a time is in one of the windows, in that time's zone.
func (a Automatic) Allowed(at time.Time) bool {
	return within(a.Windows, at)
}

// Group is a protection group: the volumes and VMs that fail over together and share one write order.
// It is desired state: changed by compare-and-swap, versioned by its KV revision.
type Group struct {
	ID           GroupID        `json:"id" yaml:"id"`
	Tier         int            `json:"tier" yaml:"tier"`
	Home         SiteID         `json:"home" yaml:"home"`       // where it runs when all is well
	Targets      []Target       `json:"targets" yaml:"targets"` // where its changes go when it runs at home
	Durability   Durability     `json:"durability" yaml:"durability"`
	OnTargetLoss OnTargetLoss   `json:"on_target_loss" yaml:"on_target_loss"`
	Failover     FailoverPolicy `json:"failover" yaml:"failover"`
	Approvers    int            `json:"approvers,omitempty" yaml:"approvers"` // of FailoverConfirm: 1 or 2; 0 is 1
	Automatic    Automatic      `json:"automatic,omitzero" yaml:"automatic"`  // bounds of FailoverAuto
	HoldDown     time.Duration  `json:"hold_down" yaml:"hold_down"`
	RPO          time.Duration  `json:"rpo" yaml:"rpo"`                         // target, 0 for sync
	Checkpoints  Checkpoints    `json:"checkpoints" yaml:"checkpoints"`         // that each target keeps of its past
	Congestion   Congestion     `json:"congestion,omitempty" yaml:"congestion"` // empty: overflow
	Placement    Placement      `json:"placement,omitzero" yaml:"placement"`    // which of its sites may serve it
	Volumes      []Volume       `json:"volumes" yaml:"volumes"`
	VMs          []VM           `json:"vms" yaml:"vms"`
}

// Checkpoints says how a target keeps its past. The zero value of a field is its default.
type Checkpoints struct {
	Disabled bool          `json:"disabled,omitempty" yaml:"disabled"`   // none are taken
	Every    time.Duration `json:"every" yaml:"every"`                   // between two, while writes come (5 s)
	AppEvery time.Duration `json:"app_every,omitempty" yaml:"app_every"` // between two for which the guests are held still; 0: none
	Keep     Keep          `json:"keep" yaml:"keep"`
}

// Keep bounds what is kept of checkpoints.
type Keep struct {
	Age   time.Duration `json:"age" yaml:"age"`     // older ones go (24 h)
	Count int           `json:"count" yaml:"count"` // of more, those closest together for their age go (120)
	Bytes int64         `json:"bytes" yaml:"bytes"` // on disk at each target; beyond, the oldest go (16 GiB)
}

// WithDefaults fills in what is zero.
func (c Checkpoints) WithDefaults() Checkpoints {
	if c.Every <= 0 {
		c.Every = 5 * time.Second
	}
	if c.Keep.Age <= 0 {
		c.Keep.Age = 24 * time.Hour
	}
	if c.Keep.Count <= 0 {
		c.Keep.Count = 120
	}
	if c.Keep.Bytes <= 0 {
		c.Keep.Bytes = 16 << 30
	}
	return c
}

// CheckpointsChange is what of Checkpoints is to be another; what is nil stays.
type CheckpointsChange struct {
	Disabled *bool          `json:"disabled,omitempty"`
	Every    *time.Duration `json:"every,omitempty"`
	AppEvery *time.Duration `json:"app_every,omitempty"`
	Age      *time.Duration `json:"age,omitempty"`
	Count    *int           `json:"count,omitempty"`
	Bytes    *int64         `json:"bytes,omitempty"`
}

// Target is one replica of a group. A group's sites are its Home and its Targets; whichever of them is primary,
// the others receive in the mode given between the pair.
type Target struct {
	Site      SiteID    `json:"site" yaml:"site"`
	Mode      Mode      `json:"mode" yaml:"mode"`
	Transport Transport `json:"transport,omitzero" yaml:"transport"`
}

// MaxVolumeBytes bounds a volume: a map of its blocks, a bit for each 4 KiB, has 2 GiB then.
const MaxVolumeBytes = 64 << 40

// Volume is a block device of fixed size.
type Volume struct {
	ID        VolumeID `json:"id" yaml:"id"`
	SizeBytes int64    `json:"size_bytes" yaml:"size_bytes"` // a multiple of 4096, at most MaxVolumeBytes
	// Added volumes came to the group while it ran, by a change in its order: a copy begins without them. Removed ones are served no
	// more; they stay in the list, as their name is not given again.
	Added   bool `json:"added,omitempty" yaml:"-"`
	Removed bool `json:"removed,omitempty" yaml:"-"`
}

// VM is one protected machine. Its address and host list differ per site.
type VM struct {
	ID        VMID                   `json:"id" yaml:"id"`
	Volumes   []VolumeID             `json:"volumes" yaml:"volumes"` // of its group, in disk order
	Priority  int                    `json:"priority" yaml:"priority"`
	DependsOn []VMID                 `json:"depends_on,omitempty" yaml:"depends_on"`
	DNS       []string               `json:"dns" yaml:"dns"`   // fully qualified names that point at it
	Port      int                    `json:"port" yaml:"port"` // service port probed by the health gate
	Sites     map[SiteID]VMPlacement `json:"sites" yaml:"sites"`
}

// VMPlacement is how a VM lives at one site.
type VMPlacement struct {
	Address string   `json:"address" yaml:"address"` // IPv4 or IPv6, no mask
	Hosts   []HostID `json:"hosts" yaml:"hosts"`     // in order of preference
}

// Served lists the group's volumes without those that were removed.
func (g Group) Served() []Volume {
	return slices.DeleteFunc(slices.Clone(g.Volumes), func(v Volume) bool { return v.Removed })
}

// SitesOf lists the group's sites, home first.
func (g Group) SitesOf() []SiteID {
	out := []SiteID{g.Home}
	for _, t := range g.Targets {
		out = append(out, t.Site)
	}
	return out
}

// ModeTo is the mode in which a primary at `from` sends to `to`: the mode of whichever of the pair is not home
// (between two targets, async). ModeNone when either is no site of the group.
func (g Group) ModeTo(from, to SiteID) Mode {
	mode := func(s SiteID) (Mode, bool) {
		for _, t := range g.Targets {
			if t.Site == s {
				return t.Mode, true
			}
		}
		return ModeNone, s == g.Home
	}
	mf, okf := mode(from)
	mt, okt := mode(to)
	switch {
	case !okf || !okt || from == to:
		return ModeNone
	case from == g.Home:
		return mt
	case to == g.Home:
		return mf
	case mf == ModeNone || mt == ModeNone:
		return ModeNone
	}
	return ModeAsync
}

// Plan is the order in which groups and their VMs are brought up.
type Plan struct {
	ID     PlanID      `json:"id" yaml:"id"`
	Groups []PlanGroup `json:"groups" yaml:"groups"`
}

// PlanGroup is one group of a plan. Groups of a lower Priority are brought up, and their health gates passed, first.
type PlanGroup struct {
	Group     GroupID   `json:"group" yaml:"group"`
	Priority  int       `json:"priority" yaml:"priority"`
	DependsOn []GroupID `json:"depends_on,omitempty" yaml:"depends_on"`
}
