package group

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/slots"
)

// mayHave refuses a definition that has one of the copy's volumes in another size.
func (s *store) mayHave(volumes []domain.Volume) error {
	for _, v := range volumes {
		if i := s.slots().Find(v.ID); i >= 0 && s.slots()[i].SizeBytes != v.SizeBytes {
			return fmt.Errorf("volume %s has %d bytes, %d are asked for; the size of a group's volume is not changed: %w", v.ID, s.slots()[i].SizeBytes, v.SizeBytes, domain.ErrInvalid)
		}
	}
	return nil
}

// volumeLoop brings the group's volumes to the policy, one change in the group's order after the other. Only here are such
// changes made, so each knows the table that it changes. What it could not do is tried again.
func (s *session) volumeLoop() {
	select {
	case <-s.serving:
	case <-s.ctx.Done():
		return
	}
	for {
		err := s.bringVolumes()
		if s.ctx.Err() != nil {
			return
		}
		s.g.mu.Lock()
		if s.g.session == s {
			s.g.volumeError = err
		}
		s.g.mu.Unlock()
		var again <-chan time.Time
		if err != nil {
			s.log.Warn("volumes are not as they are wanted", "error", err)
			again = time.After(max(s.g.cfg.Timing.Retry, time.Second))
		}
		select {
		case <-s.volumeWake:
		case <-again:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *session) bringVolumes() error {
	var all []error
	wanted := s.st.policy().Volumes
	for _, v := range wanted {
		i := s.st.slots().Find(v.ID)
		switch {
		case i < 0 && !v.Removed:
			all = append(all, s.addVolume(v))
		case i >= 0 && !v.Removed && s.st.slots()[i].Gone == 0 && !s.g.shows(v.ID):
			all = append(all, s.serveAdded(i)) // what came in between an earlier time
		case i >= 0 && v.Removed && s.st.slots()[i].Gone == 0:
			all = append(all, s.removeVolume(i))
		case i >= 0 && !v.Removed && s.st.slots()[i].Gone != 0:
			all = append(all, fmt.Errorf("volume %s was removed by change %d of the group's order, and its definition has it: remove it there too (holdfast group volume remove), and add one of another name: %w", v.ID, s.st.slots()[i].Gone, domain.ErrConflict))
		}
	}
	for _, v := range s.st.slots() {
		if v.Gone == 0 && !slices.ContainsFunc(wanted, func(w domain.Volume) bool { return w.ID == v.ID }) {
			all = append(all, fmt.Errorf("volume %s, which change %d of the group's order added, is served, and is not in its definition: add it there with %d bytes (holdfast group volume add), then it may be removed: %w", v.ID, v.Born, v.SizeBytes, domain.ErrConflict))
		}
	}
	return errors.Join(all...)
}

// addVolume puts a new volume into the group's order, and serves it.
func (s *session) addVolume(v domain.Volume) error {
	fail := func(err error) error { return fmt.Errorf("add volume %s: %w", v.ID, err) }
	index := len(s.st.slots())
	if index >= slots.MaxSlots {
		return fail(fmt.Errorf("the group has had %d volumes, which is all it may: %w", index, domain.ErrRefused))
	}
	if err := s.targetsFollow(); err != nil {
		return fail(err)
	}
	if err := s.st.tryVolume(v.SizeBytes); err != nil {
		return fail(err)
	}
	if err := s.order(slots.Change{Index: index, ID: v.ID, SizeBytes: v.SizeBytes}); err != nil {
		return fail(err)
	}
	if err := s.g.cfg.failpoint("volume added"); err != nil {
		return fail(err)
	}
	s.log.Info("volume added", "volume", string(v.ID))
	s.g.publish(s.ctx, "volume_added", s.epoch, s.st.slots()[index].Born, "", fmt.Sprintf("%s, %d bytes", v.ID, v.SizeBytes))
	return s.serveAdded(index)
}

// serveAdded serves a volume that is in the group's order.
func (s *session) serveAdded(index int) error {
	d, err := s.g.serveVolume(s, index)
	if err == nil {
		s.g.showDisks(s, func(disks []api.Disk) []api.Disk { return append(disks, d) })
	}
	if err == nil && s.ctx.Err() != nil { // the session ended meanwhile, and took away what was there then
		s.g.unserveVolume(s.st.slots()[index].ID, s.epoch)
	}
	return err
}

// shows reports whether a volume is served.
func (g *Group) shows(v domain.VolumeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.reply.Disks, func(d api.Disk) bool { return d.Volume == v })
}

// removeVolume takes a volume away from initiators, and then out of the group's order. Its file stays.
func (s *session) removeVolume(index int) error {
	v := s.st.slots()[index]
	fail := func(err error) error { return fmt.Errorf("remove volume %s: %w", v.ID, err) }
	if err := s.targetsFollow(); err != nil {
		return fail(err)
	}
	s.g.showDisks(s, func(disks []api.Disk) []api.Disk {
		return slices.DeleteFunc(disks, func(d api.Disk) bool { return d.Volume == v.ID })
	})
	s.g.unserveVolume(v.ID, s.epoch) // waits for every command: no change of the volume comes after
	if err := s.g.cfg.failpoint("volume taken away"); err != nil {
		return fail(err)
	}
	if err := s.order(slots.Change{Index: index, ID: v.ID, SizeBytes: v.SizeBytes, Remove: true}); err != nil {
		return fail(err)
	}
	s.log.Info("volume removed", "volume", string(v.ID))
	s.g.publish(s.ctx, "volume_removed", s.epoch, s.st.slots()[index].Gone, "", fmt.Sprintf("%s; what it held stays in %s at every site", v.ID, filepath.Base(s.st.volumePath(v))))
	return nil
}

// targetsFollow refuses while a target is known to be of a version that does not follow such a change.
func (s *session) targetsFollow() error {
	for site, t := range s.senders.all() {
		t.mu.Lock()
		not := t.reached && !t.changes
		t.mu.Unlock()
		if not {
			return fmt.Errorf("the replicator of site %s is of a version that cannot follow: update it: %w", site, domain.ErrRefused)
		}
	}
	return nil
}

// tryVolume makes sure that a file of a size can be made here.
func (s *store) tryVolume(size int64) error {
	path := filepath.Join(s.dir, "new.tmp")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	return errors.Join(err, removeDurably(path))
}

// RemovedVolume gives a volume that was removed and may be deleted here. Errors: domain.ErrNotFound, domain.ErrRefused (it is in the
// group; a checkpoint here shows it).
func (g *Group) RemovedVolume(id domain.VolumeID) (api.VolumeSlot, error) {
	t := g.store.slots()
	i := t.Find(id)
	if i < 0 {
		return api.VolumeSlot{}, fmt.Errorf("discard volume %s of group %s: there is none of that name: see holdfast group volume list %s: %w", id, g.id, g.id, domain.ErrNotFound)
	}
	v := t[i]
	if v.Gone == 0 {
		return v, fmt.Errorf("discard volume %s of group %s: it is in the group: remove it first: %w", id, g.id, domain.ErrRefused)
	}
	for _, p := range g.store.hist.List() {
		if p.LSN >= v.Born && p.LSN < v.Gone {
			return v, fmt.Errorf("discard volume %s of group %s: checkpoint %d of site %s still shows it: wait until such checkpoints are gone (%s): %w", id, g.id, p.LSN, g.cfg.Site, g.store.policy().Checkpoints.WithDefaults().Keep.Age, domain.ErrRefused)
		}
	}
	return v, nil
}

// DiscardVolume deletes what a removed volume held here. It may be repeated. Errors as RemovedVolume's.
func (g *Group) DiscardVolume(ctx context.Context, id domain.VolumeID) (api.VolumeSlot, error) {
	end, err := g.begin(ctx)
	if err != nil {
		return api.VolumeSlot{}, err
	}
	defer end()
	v, err := g.RemovedVolume(id)
	if err != nil {
		return v, err
	}
	return v, g.store.empty(id)
}

// order puts a change of the volumes into the group's order, and waits until it is where an acknowledged write must be.
func (s *session) order(c slots.Change) error {
	done := make(chan error, 1)
	s.enqueue(&op{marker: true, mark: markVolumes, label: c.Encode(), done: func(err error) { done <- err }})
	return <-done // the session answers every command, at its end at the latest
}

// showDisks changes what a promote and the status tell of the session's disks.
func (g *Group) showDisks(s *session, change func([]api.Disk) []api.Disk) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.session == s {
		g.reply.Disks = change(slices.Clone(g.reply.Disks))
	}
}
