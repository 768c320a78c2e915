// Package slots is a group's table of volumes: which volume each index of its changes means. It is pure.
//
// The table is part of the group's order. A volume is added, and removed, by a change of its own (a marker in the journal),
// so a prefix of the order has the table that belongs to it, wherever it is. A slot is never given to another volume and never
// taken away within a line: one that was removed stays, and says since when. So a table tells what it was after any change
// before (At), and a frame, a dirty map or a checkpoint of that line means by an index what it meant when it was made.
package slots

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Table is the volumes of a group by index.
type Table []api.VolumeSlot

// MaxSlots bounds a table, removed volumes included.
const MaxSlots = 4096

// Of is the table that a group with these volumes began with.
func Of(volumes []domain.Volume) Table {
	var t Table
	for _, v := range volumes {
		if !v.Added {
			t = append(t, api.VolumeSlot{ID: v.ID, SizeBytes: v.SizeBytes})
		}
	}
	return t
}

// Volumes is every slot's volume.
func (t Table) Volumes() []domain.Volume {
	var out []domain.Volume
	for _, s := range t {
		out = append(out, domain.Volume{ID: s.ID, SizeBytes: s.SizeBytes})
	}
	return out
}

// Sizes is every slot's size in bytes.
func (t Table) Sizes() []int64 {
	out := make([]int64, len(t))
	for i, s := range t {
		out[i] = s.SizeBytes
	}
	return out
}

// At is the table as it was after a change: what was added later is not in it, what was removed later is there.
func (t Table) At(lsn domain.LSN) Table {
	var out Table
	for _, s := range t {
		if s.Born > lsn {
			break // slots are born in order
		}
		if s.Gone > lsn {
			s.Gone = 0
		}
		out = append(out, s)
	}
	return out
}

// Check holds a table that came from elsewhere to what one may be: domain.ErrInvalid.
func (t Table) Check() error {
	if len(t) > MaxSlots {
		return fmt.Errorf("a table of %d volumes, at most %d: %w", len(t), MaxSlots, domain.ErrInvalid)
	}
	for i, s := range t {
		if s.SizeBytes <= 0 || s.SizeBytes > domain.MaxVolumeBytes || !domain.ValidToken(string(s.ID)) {
			return fmt.Errorf("volume %d of a table, %q of %d bytes: %w", i, s.ID, s.SizeBytes, domain.ErrInvalid)
		}
	}
	return nil
}

// Find is the index of a volume, -1 when there is none of that name.
func (t Table) Find(id domain.VolumeID) int {
	return slices.IndexFunc(t, func(s api.VolumeSlot) bool { return s.ID == id })
}

// Same reports whether two slots are one volume: the same one, not only one of the same name.
func Same(a, b api.VolumeSlot) bool {
	return a.ID == b.ID && a.SizeBytes == b.SizeBytes && a.Born == b.Born && a.Epoch == b.Epoch
}

// Shared is how many slots from the first on are the same in both.
func (t Table) Shared(o Table) int {
	for i := range min(len(t), len(o)) {
		if !Same(t[i], o[i]) {
			return i
		}
	}
	return min(len(t), len(o))
}

// Change adds a volume to a table, or removes one.
type Change struct {
	Index     int             `json:"index"`
	ID        domain.VolumeID `json:"id"`
	SizeBytes int64           `json:"size_bytes"`
	Remove    bool            `json:"remove,omitempty"`
}

// Encode is the change as a marker carries it.
func (c Change) Encode() []byte {
	b, _ := json.Marshal(c) // plain fields always encode
	return b
}

// Decode reads what Encode made. Anything else is domain.ErrInvalid.
func Decode(b []byte) (Change, error) {
	var c Change
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read a change of the volumes: %w", errors.Join(err, domain.ErrInvalid))
	}
	if c.Index < 0 || c.Index >= MaxSlots || !domain.ValidToken(string(c.ID)) || c.SizeBytes <= 0 || c.SizeBytes%4096 != 0 || c.SizeBytes > domain.MaxVolumeBytes {
		return c, fmt.Errorf("change of volume %d, %q of %d bytes: %w", c.Index, c.ID, c.SizeBytes, domain.ErrInvalid)
	}
	return c, nil
}

// Apply gives the table after a change, which is the LSN's of an epoch. One that the table has already changes nothing; one that
// does not fit, because it means another volume by its index, is domain.ErrRefused.
func (t Table) Apply(c Change, lsn domain.LSN, epoch domain.Epoch) (Table, error) {
	fail := func() (Table, error) {
		return nil, fmt.Errorf("change %d of the volumes, index %d is %q of %d bytes, does not fit the table %v: %w", lsn, c.Index, c.ID, c.SizeBytes, t, domain.ErrRefused)
	}
	if c.Remove {
		if c.Index >= len(t) || t[c.Index].ID != c.ID || t[c.Index].SizeBytes != c.SizeBytes || t[c.Index].Gone != 0 && t[c.Index].Gone != lsn {
			return fail()
		}
		out := slices.Clone(t)
		out[c.Index].Gone = lsn
		return out, nil
	}
	slot := api.VolumeSlot{ID: c.ID, SizeBytes: c.SizeBytes, Born: lsn, Epoch: epoch}
	switch {
	case c.Index < len(t) && Same(t[c.Index], slot):
		return t, nil
	case c.Index != len(t) || t.Find(c.ID) >= 0:
		return fail()
	}
	return append(slices.Clone(t), slot), nil
}
