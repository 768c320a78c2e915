package core

// Mutations are ways to break the protocol on purpose. The simulation turns them on one at a time to show that its
// invariants would see the fault. Nothing but a test or the simulation may call Mutate; no configuration reaches it.
type Mutations struct {
	PromiseForgotten  bool // a voter says yes to Prepare and does not note it
	UpdateIsNoGrant   bool // a voter writes the register and does not extend, the holder counts it all the same
	LeaseFromReceipt  bool // the deadline counts from the acknowledgement, not from the sending
	NoDriftMargin     bool // H = G
	HalfIsEnough      bool // a tie counts as a majority
	RenewAfterExpiry  bool // a dead epoch is revived by a late acknowledgement
	InSyncIgnored     bool // anybody may take over
	StaleInSync       bool // in-sync requests are applied in any order
	NoJointConfig     bool // weights change in one step
	EchoedTimestamps  bool // the send time travels in the message and is believed when it comes back
	AnyRoundsAck      bool // an acknowledgement of any round counts for the newest
	ForceUndrained    bool // a force waits for no lease, and asks no voter whether it is another's
	ForceNotSticky    bool // a candidate does not see that an answer is of a higher force generation
	ForceLossIgnored  bool // a force needs no consent to a loss
	NoColdStart       bool // a candidate that has just booted competes on its own site's word
	NoPassiveStanding bool // a challenger does not wait for a passive voter's heartbeat to stand still
}

// Mutate breaks the voter on purpose. For the simulation and tests only.
func (v *Voter) Mutate(m Mutations) { v.mut = m }

// Mutate breaks the candidate on purpose. For the simulation and tests only.
func (c *Candidate) Mutate(m Mutations) { c.mut = m }

// Mutate breaks the client of a passive voter on purpose. For the simulation and tests only.
func (p *Passive) Mutate(m Mutations) { p.mut = m }
