// Package lineage compares the lives of two copies of a group and finds the last change they share.
//
// A copy's lineage lists the epochs it lived through, each with the first change made under it and the site that made it.
// An epoch is granted once, to one site, so two copies that list the same (epoch, first change, site) hold the same
// changes before it, and the same changes under it as far as both go.
package lineage

import (
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Copy is one site's copy of a group: what it lived through and its last change.
type Copy struct {
	Lineage []api.LineageEntry
	Last    domain.LSN
}

// Unbounded is the Last of a primary for the comparison with a target: whatever a target has of the primary's own,
// still running epoch came from the primary, however far it goes.
const Unbounded = domain.LSN(1<<63 - 1)

// Common gives the last change that both copies hold, 0 when they share only the empty beginning. known is false when
// neither the lineages nor the beginning tells: then nothing of the other copy can be relied upon.
func Common(a, b Copy) (common domain.LSN, known bool) {
	if a.Last == 0 || b.Last == 0 {
		return 0, true
	}
	for i := len(a.Lineage) - 1; i >= 0; i-- {
		for j := len(b.Lineage) - 1; j >= 0; j-- {
			if a.Lineage[i] == b.Lineage[j] {
				return min(a.end(i), b.end(j)), true
			}
		}
	}
	if a.whole() && b.whole() {
		return 0, true
	}
	return 0, false
}

// end is the copy's last change of the epoch at index i.
func (c Copy) end(i int) domain.LSN {
	if i+1 < len(c.Lineage) {
		return min(c.Last, c.Lineage[i+1].FirstLSN-1)
	}
	return c.Last
}

// whole reports whether the lineage reaches back to the first change.
func (c Copy) whole() bool { return len(c.Lineage) > 0 && c.Lineage[0].FirstLSN <= 1 }

// EpochOf is the epoch under which the change lsn was made, 0 when the lineage does not reach back to it.
func EpochOf(l []api.LineageEntry, lsn domain.LSN) domain.Epoch {
	for i := len(l) - 1; i >= 0; i-- {
		if l[i].FirstLSN <= lsn {
			return l[i].Epoch
		}
	}
	return 0
}

// Missing lists the entries of the source's lineage that a copy which ends at last, under epoch, has yet to take before
// it can hold the change last+1, oldest first: epochs above its own that begin at or before last+1. ok is false when one
// of them begins before last+1, which a prefix of the source cannot have.
func Missing(source []api.LineageEntry, epoch domain.Epoch, last domain.LSN) (entries []api.LineageEntry, ok bool) {
	for _, e := range source {
		if e.Epoch <= epoch || e.FirstLSN > last+1 {
			continue
		}
		if e.FirstLSN < last+1 {
			return nil, false
		}
		entries = append(entries, e)
	}
	return entries, true
}
