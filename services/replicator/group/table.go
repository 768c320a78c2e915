package group

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/extent"
	"github.com/holdfast-dr/holdfast/services/replicator/history"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/slots"
)

// table is the copy's volumes by the index that its changes name them by. It is replaced as a whole: what was read of one
// stays whole. An index means the same volume in every table of a line.
type table struct {
	slots slots.Table
	sizes []int64
	vols  []*volume
}

// The table is kept in a file of its own, which is written before the volumes show a change that makes another of it. So the file
// is never behind the volumes; and what it is ahead of is in the journal, whose redo finds it made already.
const tableFile = "volumes.json"

func (s *store) tablePath() string { return filepath.Join(s.dir, tableFile) }

func (s *store) table() *table {
	if t := s.tab.Load(); t != nil {
		return t
	}
	return &table{}
}

func (s *store) sizes() []int64     { return s.table().sizes }
func (s *store) vols() []*volume    { return s.table().vols }
func (s *store) slots() slots.Table { return s.table().slots }

// volumePath is a slot's file. One that was added has the change that added it in its name: two volumes of one name, of two lines,
// are two files.
func (s *store) volumePath(v api.VolumeSlot) string {
	if v.Born == 0 {
		return filepath.Join(s.dir, string(v.ID)+".img")
	}
	return filepath.Join(s.dir, fmt.Sprintf("%s.e%d.%d.img", v.ID, v.Epoch, v.Born))
}

// loadTable reads the copy's table; a copy that has none yet begins with the group's definition.
func (s *store) loadTable() (slots.Table, error) {
	b, err := os.ReadFile(s.tablePath())
	if errors.Is(err, fs.ErrNotExist) {
		t := slots.Of(s.group.Volumes)
		return t, s.saveTable(t)
	}
	var t slots.Table
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		return nil, fmt.Errorf("read the table of volumes %s: %w", s.tablePath(), err)
	}
	for _, v := range s.group.Volumes {
		if i := t.Find(v.ID); i >= 0 && t[i].Born == 0 && t[i].SizeBytes != v.SizeBytes {
			return nil, fmt.Errorf("volume %s has %d bytes here, the group's definition says %d; mend the definition: %w", v.ID, t[i].SizeBytes, v.SizeBytes, domain.ErrInvalid)
		}
	}
	return t, nil
}

func (s *store) saveTable(t slots.Table) error {
	b, err := json.Marshal(t)
	if err == nil {
		err = s.writeFile(s.tablePath(), b)
	}
	if err != nil {
		return fmt.Errorf("save the table of volumes: %w", err)
	}
	return nil
}

// openTable opens the volumes; create makes those that are not there.
func (s *store) openTable(t slots.Table, create bool) error {
	next := &table{slots: t}
	for _, v := range t {
		vol, err := s.openSlot(v, create)
		if err != nil {
			s.closeVolumes(next.vols)
			return err
		}
		next.vols, next.sizes = append(next.vols, vol), append(next.sizes, v.SizeBytes)
	}
	s.tab.Store(next)
	return nil
}

func (s *store) openSlot(v api.VolumeSlot, create bool) (*volume, error) {
	vol, err := openVolume(s.volumePath(v), v.SizeBytes, create)
	if err == nil && s.failpoint != nil {
		vol.fails = s.failpoint
	}
	return vol, err
}

// fails is whether a test wants a place of the code to fail.
func (s *store) fails(place string) error {
	if s.failpoint == nil {
		return nil
	}
	return s.failpoint(place)
}

// writeFile replaces a small file durably. Each of its steps is a place where a test may have it fail, by the file's name.
func (s *store) writeFile(path string, b []byte) error {
	return durable.WriteFileAt(path, b, 0o600, func(step durable.Step) error {
		return s.fails(filepath.Base(path) + ": " + string(step))
	})
}

func (s *store) closeVolumes(vols []*volume) {
	for _, v := range vols {
		_ = v.f.Close()
	}
}

// newVolume makes a slot's file. What an earlier life left under its name is in quarantine, and goes.
func (s *store) newVolume(v api.VolumeSlot) (*volume, error) {
	if err := removeDurably(s.volumePath(v)); err != nil {
		return nil, err
	}
	return s.openSlot(v, true)
}

// prepare gives the volumes of another table: those it shares with the copy's as they are, the others new and empty.
func (s *store) prepare(t slots.Table) (*table, error) {
	have := s.table()
	t = slices.Clone(t)
	for i := range t { // that is each site's own
		t[i].Emptied = i < have.slots.Shared(t) && have.slots[i].Emptied && t[i].Gone != 0
	}
	next := &table{slots: t, vols: slices.Clone(have.vols[:have.slots.Shared(t)])}
	for _, v := range t[len(next.vols):] {
		vol, err := s.newVolume(v)
		if err != nil {
			s.closeVolumes(next.vols[have.slots.Shared(t):])
			return nil, err
		}
		next.vols = append(next.vols, vol)
	}
	for _, v := range t {
		next.sizes = append(next.sizes, v.SizeBytes)
	}
	return next, nil
}

// turnTo makes another table the copy's, durably. What only the old one had is in quarantine, and goes. Nothing else changes the
// store; who reads keeps what it has.
func (s *store) turnTo(next *table) error {
	have := s.table()
	shared := have.slots.Shared(next.slots)
	if err := errors.Join(s.saveTable(next.slots), s.fails("volume table")); err != nil {
		return err
	}
	s.applyMu.Lock()
	s.ap.SetVolumes(next.media())
	if s.hist != nil {
		base, sizes := next.past()
		s.hist.SetVolumes(base, sizes)
	}
	s.tab.Store(next)
	s.applyMu.Unlock()
	for i, v := range have.slots[shared:] {
		err := have.vols[shared+i].f.Close()
		if !slices.ContainsFunc(next.slots, func(n api.VolumeSlot) bool { return s.volumePath(n) == s.volumePath(v) }) {
			err = errors.Join(err, removeDurably(s.volumePath(v)))
		}
		if err != nil {
			return fmt.Errorf("remove volume %s, which the line does not have: %w", v.ID, err)
		}
	}
	return nil
}

// abandon gives the new files of a table back that did not become the copy's.
func (s *store) abandon(next *table) {
	if s.table() != next {
		s.closeVolumes(next.vols[s.slots().Shared(next.slots):])
	}
}

// change makes a table that shares every slot, and may have more, the copy's.
func (s *store) change(t slots.Table) error {
	next, err := s.prepare(t)
	if err == nil {
		if err = s.fails("volume file"); err == nil {
			err = s.turnTo(next)
		}
		if err != nil {
			s.abandon(next)
		}
	}
	if err != nil {
		return fmt.Errorf("change the volumes of group %s: %w", s.group.ID, err)
	}
	return nil
}

func (t *table) media() []journal.Volume {
	out := make([]journal.Volume, len(t.vols))
	for i, v := range t.vols {
		out[i] = v
	}
	return out
}

func (t *table) past() (base []history.Base, sizes []int64) {
	for _, v := range t.vols {
		base = append(base, v)
	}
	return base, t.sizes
}

// markVolumes is the offset of a marker that changes the table of volumes; its data says how.
const markVolumes = 3

// tableChange reads what an entry changes of the table, if it does.
func tableChange(e journal.Entry) (c slots.Change, is bool, err error) {
	if e.Op != journal.OpMarker || e.Off != markVolumes {
		return c, false, nil
	}
	c, err = slots.Decode(e.Data)
	return c, true, err
}

// empty deletes what a removed volume held, durably; its file stays, without content. Nothing but applying goes on beside it.
func (s *store) empty(id domain.VolumeID) error {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	have := s.table()
	next := &table{slots: slices.Clone(have.slots), sizes: have.sizes, vols: have.vols}
	i := next.slots.Find(id)
	next.slots[i].Emptied = true
	err := s.saveTable(next.slots) // first: a start finishes it
	if err == nil {
		s.tab.Store(next)
		err = s.fails("volume emptied")
	}
	if err == nil {
		err = next.vols[i].clear()
	}
	if err != nil {
		return fmt.Errorf("discard volume %s of group %s: %w", id, s.group.ID, err)
	}
	return nil
}

// emptyAgain deletes again what removed volumes held here: a kill may have come in between, and the redo of the journal brings back what
// it still has.
func (s *store) emptyAgain() error {
	for i, v := range s.slots() {
		if v.Emptied {
			if err := s.vols()[i].clear(); err != nil {
				return fmt.Errorf("discard volume %s: %w", v.ID, err)
			}
		}
	}
	return nil
}

// lacks reports whether a volume that was in the group after a change was emptied here.
func (s *store) lacks(lsn domain.LSN) bool {
	return slices.ContainsFunc(s.slots().At(lsn), func(v api.VolumeSlot) bool { return v.Gone == 0 && v.Emptied })
}

// sendable takes out of a set what is not there to be sent: what an emptied volume held stays what it is at targets.
func (s *store) sendable(set *extent.Set) *extent.Set {
	for i, v := range s.slots() {
		if v.Emptied {
			set.Drop(i)
		}
	}
	return set
}

// followTable carries out a change of the table that stands in the order at lsn. It comes before the volumes show that change.
func (s *store) followTable(e journal.Entry, lsn domain.LSN, epoch domain.Epoch) error {
	c, is, err := tableChange(e)
	if !is {
		return nil
	}
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	have := s.slots()
	var t slots.Table
	if err == nil {
		t, err = have.Apply(c, lsn, epoch)
	}
	if err != nil {
		return fmt.Errorf("change the volumes of group %s: %w", s.group.ID, err)
	}
	if slices.Equal(t, have) {
		return nil
	}
	return s.change(t)
}

// cutTable brings the table back to what it was after a change: the journal has nothing after it any more.
func (s *store) cutTable(lsn domain.LSN) error {
	s.tableMu.Lock()
	defer s.tableMu.Unlock()
	t := s.slots().At(lsn)
	if slices.Equal(t, s.slots()) {
		return nil
	}
	return s.change(t)
}
