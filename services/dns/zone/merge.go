package zone

import (
	"errors"
	"fmt"
	"maps"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Merge joins another site's records in: of two records for one name and type the higher epoch stands, then the higher
// serial. changed lists what was taken over. Merging is idempotent, and two sites that merge each other's records answer
// the same. The zone's serial grows past every serial seen, so that a later change here is newer than all of them.
//
// err joins what could not be taken (domain.ErrInvalid) and what should be impossible (domain.ErrConflict: one epoch and
// one serial, yet two values or two groups); the rest is merged, and of two such values the greater stands at both sites.
func (z Zone) Merge(records []Record) (merged Zone, changed []Record, err error) {
	m, serial := maps.Clone(z.records), z.serial
	if m == nil {
		m = make(map[key]Record, len(records))
	}
	var errs []error
	for _, r := range records {
		theirs, err := z.admit(r)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		serial = max(serial, theirs.Serial)
		k := key{theirs.Name, theirs.Type}
		ours, ok := m[k]
		if ok && conflicting(ours, theirs) {
			errs = append(errs, fmt.Errorf("merge %s %s at epoch %s: ours is %s of group %s, theirs %s of group %s: %w", ours.Type,
				ours.Name, ours.Epoch, Show(ours.Value), ours.Group, Show(theirs.Value), theirs.Group, domain.ErrConflict))
		}
		if !ok || newer(theirs, ours) {
			m[k], changed = theirs, append(changed, theirs)
		}
	}
	if len(changed) > 0 {
		serial++ // a secondary or a person comparing serials must see that the answers changed
	}
	if len(changed) == 0 && serial == z.serial {
		return z, nil, errors.Join(errs...)
	}
	return z.with(m, serial), changed, errors.Join(errs...)
}

// newer reports whether a stands over b. It is a total order over records of one name and type.
func newer(a, b Record) bool {
	switch {
	case a.Epoch != b.Epoch:
		return a.Epoch > b.Epoch
	case a.Serial != b.Serial:
		return a.Serial > b.Serial
	case a.Value != b.Value:
		return a.Value > b.Value
	case a.TTL != b.TTL:
		return a.TTL > b.TTL
	}
	return a.Group > b.Group
}

func conflicting(a, b Record) bool {
	if a.Epoch == 0 && b.Epoch == 0 {
		return false // two configurations that differ: not the work of two primaries
	}
	if a.Group != b.Group && a.Group != "" && b.Group != "" {
		return true
	}
	return a.Epoch == b.Epoch && a.Serial == b.Serial && a.Value != b.Value
}
