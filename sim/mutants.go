package sim

import "github.com/holdfast-dr/holdfast/services/quorum/core"

// Mutations breaks the protocol on purpose: the core's own, and those of its surroundings.
type Mutations struct {
	core.Mutations
	StaleAfterRestart   bool // a voter comes back with an older record
	NoRebootHoldOff     bool // a rebooted voter is free at once
	WallClock           bool // leases run on a clock that steps
	ServeAfterExpiry    bool // the gate looks at the epoch only
	ClockStopsInSuspend bool
	ReleaseBeforeStop   bool
	BlindPassiveWrite   bool // the share takes any write
	NoFence             bool // writes of older epochs land
	UncommittedShrink   bool // the writer stops waiting when it asks, not when it is told
	GrowWaitsLate       bool // the writer waits for a new replica once the set is committed
	GrowTooEarly        bool // a replica is proposed before it holds everything acknowledged
	PreventIgnored      bool // a site that may join only competes all the same
	OftenForced         bool // not a fault of the protocol: every schedule has an operator who forces quorum
	WideDrift           bool // not a fault of the protocol: clocks drift ten times as far as ε allows for
}

// Mutant is one named way to break the protocol.
type Mutant struct {
	Name string
	// Within is the number of schedules in which it must be caught, several times the mean seen.
	Within int
	Slow   bool // takes too long for a quick test
	Doc    string
	Set    func(*Mutations)
}

// Mutants lists every one.
func Mutants() []Mutant {
	return []Mutant{
		{"promise-forgotten", 4000, false, "a voter says yes to Prepare and does not note it", func(m *Mutations) { m.PromiseForgotten = true }},
		{"stale-after-restart", 8000, false, "a restarted voter has an older record", func(m *Mutations) { m.StaleAfterRestart = true }},
		{"no-reboot-hold-off", 8000, false, "a rebooted voter is free at once", func(m *Mutations) { m.NoRebootHoldOff = true }},
		{"wall-clock", 2000, false, "leases run on a clock that steps", func(m *Mutations) { m.WallClock = true }},
		{"lease-from-receipt", 4000, false, "the deadline counts from the acknowledgement", func(m *Mutations) { m.LeaseFromReceipt = true }},
		{"serve-after-expiry", 500, false, "the gate looks at the epoch only", func(m *Mutations) { m.ServeAfterExpiry = true }},
		{"renew-after-expiry", 20000, false, "a dead epoch is revived by a late acknowledgement", func(m *Mutations) { m.RenewAfterExpiry = true }},
		{"no-drift-margin", 8000, false, "H = G, with clocks at ten times ε", func(m *Mutations) { m.NoDriftMargin, m.WideDrift = true, true }},
		{"half-is-enough", 500, false, "a tie counts as a majority", func(m *Mutations) { m.HalfIsEnough = true }},
		{"clock-stops-in-suspend", 2000, false, "the monotone clock in place of the boot-time clock", func(m *Mutations) { m.ClockStopsInSuspend = true }},
		{"release-before-stop", 500, false, "the lease is given up while the writer still serves", func(m *Mutations) { m.ReleaseBeforeStop = true }},
		{"blind-passive-write", 1000, false, "the share takes any write", func(m *Mutations) { m.BlindPassiveWrite = true }},
		{"no-passive-standing", 1000, false, "a challenger does not wait for the heartbeat", func(m *Mutations) { m.NoPassiveStanding = true }},
		{"no-fence", 4000, false, "writes of older epochs land", func(m *Mutations) { m.NoFence = true }},
		{"in-sync-ignored", 1000, false, "anybody may take over", func(m *Mutations) { m.InSyncIgnored = true }},
		{"uncommitted-shrink", 4000, false, "the writer stops waiting too soon", func(m *Mutations) { m.UncommittedShrink = true }},
		{"grow-waits-late", 40000, false, "the writer waits for a new replica too late", func(m *Mutations) { m.GrowWaitsLate = true }},
		{"grow-too-early", 8000, false, "a replica joins before it holds everything", func(m *Mutations) { m.GrowTooEarly = true }},
		{"stale-in-sync-request", 20000, false, "in-sync requests are applied in any order", func(m *Mutations) { m.StaleInSync = true }},
		{"no-joint-configuration", 8000, false, "weights change in one step", func(m *Mutations) { m.NoJointConfig = true }},
		{"update-is-no-grant", 20000, false, "a voter does not extend on Update", func(m *Mutations) { m.UpdateIsNoGrant = true }},
		{"echoed-timestamps", 8000, false, "the send time travels and is believed", func(m *Mutations) { m.EchoedTimestamps = true }},
		{"any-rounds-acknowledgement", 8000, false, "an old round's acknowledgement counts", func(m *Mutations) { m.AnyRoundsAck = true }},
		{"force-undrained", 500, false, "a force does not wait for the old lease", func(m *Mutations) { m.ForceUndrained, m.OftenForced = true, true }},
		{"force-not-sticky", 2000, false, "a higher force generation is not seen", func(m *Mutations) { m.ForceNotSticky, m.OftenForced = true, true }},
		{"no-cold-start", 1500, false, "a site competes after a boot before it hears another", func(m *Mutations) { m.NoColdStart, m.OftenForced = true, true }},
		{"force-ignores-loss", 1500, false, "a force needs no consent to a loss", func(m *Mutations) { m.ForceLossIgnored, m.OftenForced = true, true }},
		{"prevent-ignored", 3000, false, "a site that may join only competes all the same", func(m *Mutations) { m.PreventIgnored, m.OftenForced = true, true }},
	}
}

// MutantNamed finds a mutant.
func MutantNamed(name string) (Mutant, bool) {
	for _, m := range Mutants() {
		if m.Name == name {
			return m, true
		}
	}
	return Mutant{}, false
}
