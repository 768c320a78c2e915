package core

import (
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Instant is a reading of CLOCK_BOOTTIME on the machine that runs the state machine. Instants of two machines, or of two
// boots of one machine, cannot be compared.
type Instant time.Duration

// Add moves the instant by d.
func (t Instant) Add(d time.Duration) Instant { return t + Instant(d) }

// Sub is the time from u to t.
func (t Instant) Sub(u Instant) time.Duration { return time.Duration(t - u) }

// VoterID names a voter: the site's own active voter, a witness, or a passive voter such as a share.
type VoterID string

// Weights gives each voter its number of votes. A voter that is not named, or has 0, does not count.
type Weights map[VoterID]int

// Majority reports whether the voters for which has is true hold strictly more than half of all votes.
func (w Weights) Majority(has func(VoterID) bool) bool {
	have, total := w.Count(has)
	return 2*have > total
}

// Count is the votes for which has is true, and all votes.
func (w Weights) Count(has func(VoterID) bool) (have, total int) {
	for id, n := range w {
		total += n
		if n > 0 && has(id) {
			have += n
		}
	}
	return have, total
}

// Same reports whether both give the same votes; members without a vote make no difference.
func (w Weights) Same(o Weights) bool {
	for id, n := range w {
		if n != o[id] {
			return false
		}
	}
	for id, n := range o {
		if n != w[id] {
			return false
		}
	}
	return true
}

func (w Weights) clone() Weights {
	if w == nil {
		return nil
	}
	out := make(Weights, len(w))
	for k, v := range w {
		out[k] = v
	}
	return out
}

func (w Weights) equal(o Weights) bool {
	if len(w) != len(o) {
		return false
	}
	for k, v := range w {
		if ov, ok := o[k]; !ok || ov != v {
			return false
		}
	}
	return true
}

// Config is who votes with what weight. While Old is set the configuration is joint: a quorum needs a majority of both.
// A Config is never changed in place.
type Config struct {
	Version uint64  `json:"version"`
	Weights Weights `json:"weights"`
	Old     Weights `json:"old,omitempty"`
}

// Quorum reports whether the voters for which has is true are a quorum under the configuration.
func (c Config) Quorum(has func(VoterID) bool) bool {
	return c.Weights.Majority(has) && (c.Old == nil || c.Old.Majority(has))
}

// Either reports whether has is a majority under the configuration, or under the one that it is changed from. Such a change may never
// have been agreed on, or it may be finished, where nobody with this configuration was told: then the one or the other alone decides.
func (c Config) Either(has func(VoterID) bool) bool {
	return c.Weights.Majority(has) || c.Old != nil && c.Old.Majority(has)
}

// Joint reports whether a change of configuration is under way.
func (c Config) Joint() bool { return c.Old != nil }

// Voters lists everyone the configuration names, sorted.
func (c Config) Voters() []VoterID {
	out := make([]VoterID, 0, len(c.Weights)+len(c.Old))
	for id := range c.Weights {
		out = append(out, id)
	}
	for id := range c.Old {
		if _, ok := c.Weights[id]; !ok {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Register is the value the votes agree on. It is ordered by (WE, Seq): the epoch that wrote it and the number of the
// write within that epoch. Its slices and maps are never changed in place.
type Register struct {
	WE      domain.Epoch    `json:"we"`
	Seq     uint64          `json:"seq"`
	InSync  []domain.SiteID `json:"in_sync"` // sites that hold every acknowledged synchronous write
	Counter uint64          `json:"counter"` // of the last in-sync request applied in epoch WE
	Config  Config          `json:"config"`
}

// NewerThan orders registers by (WE, Seq).
func (r Register) NewerThan(o Register) bool {
	return r.WE > o.WE || r.WE == o.WE && r.Seq > o.Seq
}

// Holds reports whether the site is in the in-sync set.
func (r Register) Holds(s domain.SiteID) bool { return slices.Contains(r.InSync, s) }

// Bars says why a site must not be granted an epoch over this register, "" when it may: it is in sync, or the loss is accepted.
func (r Register) Bars(s domain.SiteID, acceptLoss bool) Reason {
	if acceptLoss || r.Holds(s) {
		return ""
	}
	return NotInSync
}

// Record is what a voter keeps on stable storage for one (cluster, group). The zero value is a voter that never voted.
type Record struct {
	Promised    domain.Epoch  `json:"promised"`     // no lower epoch will be accepted
	VEpoch      domain.Epoch  `json:"v_epoch"`      // last epoch voted for
	VHolder     domain.SiteID `json:"v_holder"`     // who has the vote, "" nobody
	G           time.Duration `json:"g"`            // how long one grant lasts, by the voter's clock
	ReservedFor domain.SiteID `json:"reserved_for"` // who alone may compete for G after a release, "" anybody
	HB          uint64        `json:"hb,omitempty"` // heartbeat, passive voters only
	Reg         Register      `json:"reg"`
}

// OlderThan reports whether the record lacks something that the other one has, which is of the same voter: what a voter stores never goes
// back, neither its promise nor its vote nor its register, and within one epoch the vote is given and then released. Of two records that
// a voter had, one is older at most; where both are, they are of two histories.
func (r Record) OlderThan(o Record) bool {
	return r.Promised < o.Promised || r.VEpoch < o.VEpoch || o.Reg.NewerThan(r.Reg) || r.VEpoch == o.VEpoch && r.VHolder != "" && o.VHolder == ""
}

// Volatile is the part of a voter that may be lost with the machine, kept on tmpfs beside the boot id. After a reboot it
// is rebuilt by Rebooted; when it is missing although the machine did not reboot, by Unknown.
type Volatile struct {
	Until    Instant      `json:"until"`     // the grant ends
	ResUntil Instant      `json:"res_until"` // the reservation ends
	SeqEpoch domain.Epoch `json:"seq_epoch"` // epoch SeqMax belongs to
	SeqMax   uint64       `json:"seq_max"`   // highest sequence that extended the grant
}

// Rebooted is the volatile state after a reboot: busy for G from the boot (Instant 0), since a grant given in the last
// moment before the crash can last no longer.
func Rebooted(rec Record) Volatile { return Unknown(rec, 0) }

// Unknown is the volatile state when it was lost at a time not later than now: busy for G from now.
func Unknown(rec Record, now Instant) Volatile {
	end := now.Add(rec.G)
	return Volatile{Until: end, ResUntil: end}
}
