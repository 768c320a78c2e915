package domain

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// SiteID names a site: a short lower-case token, for example "a".
type SiteID string

// GroupID names a protection group, for example "erp".
type GroupID string

// VolumeID names a volume within its group, for example "data".
type VolumeID string

// VMID names a virtual machine, unique in the installation.
type VMID string

// HostID names a VM host, unique in the installation.
type HostID string

// PlanID names a recovery plan.
type PlanID string

// RunID names one run of a plan: a ULID.
type RunID string

// DeclarationID names one declaration of a disaster: a ULID.
type DeclarationID string

var hostLabel = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$`)

var token = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// ValidToken reports whether s can be used as an identifier: 1 to 32 of a-z, 0-9 and '-', not beginning or ending
// with '-'. Identifiers become NATS subject tokens, file names and DNS labels, so they are kept to what all three allow.
func ValidToken(s string) bool { return token.MatchString(s) }

// ValidHostname reports whether s, in lower case and without a dot at its end, is a name that DNS can hold: labels of 1 to 63 of
// a-z, 0-9, '-' and '_', none beginning or ending with '-', 253 characters in all at most.
func ValidHostname(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if !hostLabel.MatchString(label) {
			return false
		}
	}
	return true
}

// LSN numbers every change of a group, without gaps, from 1. LSN 0 means "nothing yet".
type LSN uint64

// Epoch is the fencing token of a group: a number that only grows, granted by quorum with the right to be primary.
// It is force generation | counter | site index, in 8, 36 and 8 bits, so that it fits a JSON number exactly.
// The zero value was never granted to anybody.
type Epoch int64

const (
	siteBits    = 8
	counterBits = 36
	maxSite     = 1<<siteBits - 1
	maxCounter  = 1<<counterBits - 1
)

// NewEpoch composes an epoch. site is the candidate's index in 1..255.
func NewEpoch(force, counter, site int) Epoch {
	return Epoch(int64(force)<<(counterBits+siteBits) | int64(counter)&maxCounter<<siteBits | int64(site)&maxSite)
}

// Force is the force generation: how many times an operator has forced quorum in this group's life.
func (e Epoch) Force() int { return int(int64(e) >> (counterBits + siteBits)) }

// Counter is the ordinary part of the epoch, grown by one for each candidacy.
func (e Epoch) Counter() int { return int(int64(e) >> siteBits & maxCounter) }

// Site is the index of the site the epoch was made by; it keeps the epochs of two candidates apart.
func (e Epoch) Site() int { return int(int64(e) & maxSite) }

// Next is the smallest epoch of the site's own above e, with e's force generation.
func (e Epoch) Next(site int) Epoch { return NewEpoch(e.Force(), e.Counter()+1, site) }

// NextForced is the epoch of a forced grant: a generation above e's.
func (e Epoch) NextForced(site int) Epoch { return NewEpoch(e.Force()+1, e.Counter()+1, site) }

// String shows an epoch as force.counter.site, for example "0.12.2".
func (e Epoch) String() string {
	return strconv.Itoa(e.Force()) + "." + strconv.Itoa(e.Counter()) + "." + strconv.Itoa(e.Site())
}

// ParseEpoch reads what String wrote, or the plain number.
func ParseEpoch(s string) (Epoch, error) {
	parts := strings.Split(s, ".")
	if len(parts) == 1 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 0 {
			return 0, fmt.Errorf("parse epoch %q: want force.counter.site or a number", s)
		}
		return Epoch(n), nil
	}
	if len(parts) != 3 {
		return 0, fmt.Errorf("parse epoch %q: want force.counter.site", s)
	}
	var n [3]int
	for i, p := range parts {
		v, err := strconv.Atoi(p)
		if err != nil || v < 0 {
			return 0, fmt.Errorf("parse epoch %q: %q is not a number", s, p)
		}
		n[i] = v
	}
	return NewEpoch(n[0], n[1], n[2]), nil
}
