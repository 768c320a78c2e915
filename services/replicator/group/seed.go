package group

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/slots"
)

// A seed is a carried image of a volume, <volume>.seed in the group's folder at a target. It becomes the volume's file when a
// copy without any change is opened. What it holds is no state of the group: the copy is marked seeded, durably, before the
// file takes its place, and until a resync has been installed it is not promoted and is told to be inconsistent. The first
// resync compares all of it by hashes, and so sends what differs.

func (s *store) seedPath(v domain.VolumeID) string { return filepath.Join(s.dir, string(v)+".seed") }

// plantSeeds takes the seeds of a copy that has no change yet. A kill between any two steps is made good at the next start.
func (s *store) plantSeeds(last domain.LSN) error {
	for _, v := range slots.Of(s.group.Volumes) {
		st, err := os.Stat(s.seedPath(v.ID))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		switch {
		case err != nil:
			return err
		case last != 0:
			return fmt.Errorf("there is a seed %s, but the copy has changes already, up to LSN %d: move the seed away: %w", s.seedPath(v.ID), last, domain.ErrRefused)
		case st.Size() != v.SizeBytes:
			return fmt.Errorf("the seed %s has %d bytes, the volume %d: bring the right image, or move it away: %w", s.seedPath(v.ID), st.Size(), v.SizeBytes, domain.ErrInvalid)
		}
		if err := s.remember(func(m *meta) { m.Seeded = true }); err != nil {
			return err
		}
		if err := os.Rename(s.seedPath(v.ID), s.volumePath(v)); err != nil {
			return err
		}
		if err := durable.SyncDir(s.dir); err != nil {
			return err
		}
	}
	return nil
}

// seeded reports whether the volumes hold seeds that no resync has made a copy of.
func (s *store) seeded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta.Seeded
}

// PlaceSeed brings an image of a volume into a group's folder, where the replicator takes it when it next starts. The
// replicator must not have the group open. progress, when not nil, is told now and then how far it is. Errors: domain.ErrInvalid
// (another size, no such volume), domain.ErrConflict (the group is open), domain.ErrRefused (the copy has changes already).
func PlaceSeed(ctx context.Context, dir string, def domain.Group, volume domain.VolumeID, image string, progress func(done, size int64)) error {
	fail := func(err error) error { return fmt.Errorf("seed volume %s of group %s: %w", volume, def.ID, err) }
	s := &store{group: def, dir: dir, files: vfs.OS()}
	size := int64(-1)
	for _, v := range def.Volumes {
		if v.ID == volume {
			size = v.SizeBytes
		}
		if v.ID == volume && v.Added {
			return fail(fmt.Errorf("it was added while the group ran; what it holds is sent: %w", domain.ErrRefused))
		}
	}
	if size < 0 {
		return fail(fmt.Errorf("the group has no such volume: %w", domain.ErrInvalid))
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	if err := s.takeLock(); err != nil {
		return fail(fmt.Errorf("stop this site's replicator first: %w", err))
	}
	defer func() { _ = s.lock.Close() }() // gives the lock back
	if err := s.unused(ctx); err != nil {
		return fail(err)
	}
	in, err := os.Open(image)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = in.Close() }() // read only
	if st, err := in.Stat(); err != nil || st.Size() != size {
		return fail(errors.Join(err, fmt.Errorf("%s is not %d bytes long, as the volume is: %w", image, size, domain.ErrInvalid)))
	}
	tmp := s.seedPath(volume) + ".tmp"
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if err := copySparse(ctx, in, tmp, size, progress); err != nil {
		return fail(err)
	}
	if err := os.Rename(tmp, s.seedPath(volume)); err != nil {
		return fail(err)
	}
	return durable.SyncDir(dir)
}

// unused refuses a copy that has a change.
func (s *store) unused(ctx context.Context) error {
	path := filepath.Join(s.dir, "journal")
	exists, err := s.files.Exists(path)
	if err != nil || !exists {
		return err
	}
	j, rec, err := journal.Open(ctx, s.files, path, journal.Config{Group: s.group.ID})
	if err != nil {
		return err
	}
	if rec.LastLSN > 0 {
		err = fmt.Errorf("the copy has changes already, up to LSN %d: a resync sends only what differs from it; to begin anew, move the folder %s aside: %w", rec.LastLSN, s.dir, domain.ErrRefused)
	}
	return errors.Join(err, j.Close())
}

// copySparse copies an image durably, with holes where it has zeroes. progress is told after each piece.
func copySparse(ctx context.Context, in *os.File, path string, size int64, progress func(done, size int64)) error {
	out, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = out.Truncate(size)
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size && err == nil; off += int64(len(buf)) {
		if data, serr := unix.Seek(int(in.Fd()), off, unix.SEEK_DATA); serr == nil {
			off = max(off, data/extentAlign*extentAlign)
		} else if errors.Is(serr, unix.ENXIO) {
			break
		}
		part := buf[:min(int64(len(buf)), size-off)]
		if _, err = io.ReadFull(io.NewSectionReader(in, off, size-off), part); err == nil && !allZero(part) {
			_, err = out.WriteAt(part, off)
		}
		if err == nil {
			err = ctx.Err()
			progress(off+int64(len(part)), size)
		}
	}
	return errors.Join(err, out.Sync(), out.Close())
}

const extentAlign = 4096
