package group

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/filevolume"
	"github.com/holdfast-dr/holdfast/services/replicator/history"
	"github.com/holdfast-dr/holdfast/services/replicator/layer"
)

// overlay is a checkpoint that is open: its volumes are served under names of their own, and may be written to. What is
// written goes to files that end with it, as the overlay ends with the process.
type overlay struct {
	view  *history.View
	bound *bound
	dir   string
	disks []api.Disk
	iqns  []string
	units []*filevolume.Volume
}

func (s *store) overlaysDir() string { return filepath.Join(s.dir, "overlays") }

// pastVolume is one volume of a view as a layer's medium. It is never written to.
type pastVolume struct {
	v      *history.View
	volume int
	size   int64
}

var (
	_ layer.Medium = pastVolume{}
	// errPast refuses to write to the past itself; an overlay's writes never come here.
	errPast = fmt.Errorf("a checkpoint is not written to: %w", domain.ErrRefused)
)

// ReadAt implements layer.Medium.
func (p pastVolume) ReadAt(b []byte, off int64) (int, error) { return p.v.ReadAt(p.volume, b, off) }

// TryRead implements layer.Medium: the past is on disk.
func (p pastVolume) TryRead([]byte, int64) bool { return false }

// WriteAt implements layer.Medium.
func (p pastVolume) WriteAt([]byte, int64) (int, error) { return 0, errPast }

// Zero implements layer.Medium.
func (p pastVolume) Zero(int64, int64) error { return errPast }

// Unmap implements layer.Medium.
func (p pastVolume) Unmap(int64, int64) error { return errPast }

// Extent implements layer.Medium: all counts as holding something, which is never wrong about data.
func (p pastVolume) Extent(off int64) (bool, int64, error) { return true, p.size - off, nil }

// Sync implements layer.Medium.
func (p pastVolume) Sync() error { return nil }

// Close implements layer.Medium.
func (p pastVolume) Close() error { return nil }

// OpenCheckpoint serves a checkpoint's volumes, writable, while replication goes on: see api.CheckpointOpenRequest.
func (g *Group) OpenCheckpoint(ctx context.Context, req api.CheckpointOpenRequest) (reply api.CheckpointOpened, err error) {
	end, err := g.begin(ctx)
	if err != nil {
		return reply, err
	}
	defer end()
	if req.LimitBytes < 0 {
		return reply, fmt.Errorf("open checkpoint %d of group %s with a limit of %d bytes: %w", req.Checkpoint, g.id, req.LimitBytes, domain.ErrInvalid)
	}
	reply = api.CheckpointOpened{Group: g.id, Checkpoint: req.Checkpoint, LimitBytes: req.LimitBytes}
	g.mu.Lock()
	have := g.overlays[req.Checkpoint]
	g.mu.Unlock()
	if have != nil {
		if !have.view.Listed() {
			return reply, fmt.Errorf("checkpoint %d of group %s is open, but no checkpoint any more: close it: %w", req.Checkpoint, g.id, domain.ErrNotFound)
		}
		if req.LimitBytes > 0 {
			have.bound.allow(req.LimitBytes)
		}
		reply.Disks = have.disks
		_, reply.LimitBytes, _ = have.bound.state()
		return reply, nil
	}
	which, err := g.volumesNamed(req.Volumes, req.Checkpoint)
	if err != nil {
		return reply, err
	}
	o, err := g.openOverlay(req.Checkpoint, which, req.LimitBytes)
	if err != nil {
		return reply, fmt.Errorf("open checkpoint %d of group %s: %w", req.Checkpoint, g.id, err)
	}
	g.mu.Lock()
	g.overlays[req.Checkpoint] = o
	g.mu.Unlock()
	reply.Disks = o.disks
	g.publish(ctx, "checkpoint_opened", g.store.fence(), req.Checkpoint, "", fmt.Sprintf("%d volumes", len(o.disks)))
	return reply, nil
}

// volumesNamed gives the indexes of volumes of a checkpoint; when none is named, all that were served then.
func (g *Group) volumesNamed(ids []domain.VolumeID, lsn domain.LSN) ([]int, error) {
	var out []int
	then := g.store.slots().At(lsn)
	for i, v := range then {
		if len(ids) == 0 && v.Gone == 0 || slices.Contains(ids, v.ID) {
			out = append(out, i)
		}
	}
	for _, id := range ids {
		if then.Find(id) < 0 {
			return nil, fmt.Errorf("group %s has no volume %q at checkpoint %d: %w", g.id, id, lsn, domain.ErrNotFound)
		}
	}
	return out, nil
}

func (g *Group) openOverlay(lsn domain.LSN, which []int, limit int64) (o *overlay, err error) {
	v, err := g.view(lsn)
	if err != nil {
		return nil, err
	}
	o = &overlay{view: v, bound: g.newBound(g.log.With("checkpoint", uint64(lsn)), limit), dir: filepath.Join(g.store.overlaysDir(), "c"+strconv.FormatUint(uint64(lsn), 10))}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.close(g.cfg.Portal))
		}
	}()
	if err := errors.Join(os.RemoveAll(o.dir), os.MkdirAll(o.dir, 0o700)); err != nil {
		return nil, err
	}
	for _, i := range which {
		vol := g.store.slots()[i]
		unit, err := o.unit(i, vol, filevolume.IdentityOf("checkpoint\x00"+string(g.cfg.Site)+"\x00"+string(g.id)+"\x00"+string(vol.ID)+"\x00"+o.dir))
		if err != nil {
			return nil, fmt.Errorf("volume %s: %w", vol.ID, err)
		}
		o.units = append(o.units, unit)
		iqn := g.testIQN(vol.ID, lsn)
		if err := g.cfg.Portal.Add(iqn, unit); err != nil {
			return nil, fmt.Errorf("serve volume %s: %w", vol.ID, err)
		}
		o.iqns = append(o.iqns, iqn)
		o.disks = append(o.disks, api.Disk{Volume: vol.ID, URL: g.cfg.Portal.URL(iqn), Serial: unit.Info().Serial})
	}
	return o, nil
}

// testIQN is the name of a checkpoint's volume: never that of a volume that is served for work.
func (g *Group) testIQN(v domain.VolumeID, lsn domain.LSN) string {
	return "iqn.2026-11.dev.holdfast:" + string(g.cfg.Site) + "." + string(g.id) + "." + string(v) + ".test.c" + strconv.FormatUint(uint64(lsn), 10)
}

// unit is a volume of the checkpoint below an empty layer that takes what is written.
func (o *overlay) unit(i int, v api.VolumeSlot, id filevolume.Identity) (_ *filevolume.Volume, err error) {
	data, err := scratch(filepath.Join(o.dir, string(v.ID)+".data"), v.SizeBytes)
	if err != nil {
		return nil, err
	}
	blocks, err := scratch(filepath.Join(o.dir, string(v.ID)+".map"), layer.MapSize(v.SizeBytes))
	if err != nil {
		return nil, errors.Join(err, data.Close())
	}
	top, err := layer.Delta(newBoundFile(data, v.SizeBytes, o.bound), blocks, nil, v.SizeBytes, v.SizeBytes)
	if err != nil {
		return nil, errors.Join(err, data.Close(), blocks.Close())
	}
	past := layer.Base(pastVolume{o.view, i, v.SizeBytes}, v.SizeBytes)
	id.Product = "checkpoint"
	return filevolume.New(layer.NewChain([]*layer.Layer{top, past}, top.Close),
		filevolume.Settings{Name: string(v.ID), SizeBytes: v.SizeBytes, Durability: domain.DurabilityCached, Identity: id, DetectZeroes: true})
}

// scratch makes an empty sparse file.
func scratch(path string, size int64) (*blockfile.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		return nil, err
	}
	return blockfile.Open(path, size, blockfile.Cached)
}

// close takes the overlay away with all that was written to it. No answer leaves afterwards.
func (o *overlay) close(p Portal) error {
	var err error
	for _, iqn := range o.iqns {
		err = errors.Join(err, p.Remove(iqn))
	}
	for _, u := range o.units {
		err = errors.Join(err, u.Close())
	}
	o.view.Close()
	return errors.Join(err, os.RemoveAll(o.dir))
}

// CloseCheckpoint takes an open checkpoint away, with all that was written to it. One that is not open is no error.
func (g *Group) CloseCheckpoint(ctx context.Context, lsn domain.LSN) error {
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	return g.closeOverlay(ctx, lsn)
}

func (g *Group) closeOverlay(ctx context.Context, lsn domain.LSN) error {
	g.mu.Lock()
	o := g.overlays[lsn]
	delete(g.overlays, lsn)
	g.mu.Unlock()
	if o == nil {
		return nil
	}
	err := o.close(g.cfg.Portal)
	g.publish(ctx, "checkpoint_closed", g.store.fence(), lsn, "", "")
	if err != nil {
		return fmt.Errorf("close checkpoint %d of group %s: %w", lsn, g.id, err)
	}
	return nil
}

// closeOverlays takes all of them away.
func (g *Group) closeOverlays(ctx context.Context) {
	g.mu.Lock()
	var open []domain.LSN
	for lsn := range g.overlays {
		open = append(open, lsn)
	}
	g.mu.Unlock()
	for _, lsn := range open {
		if err := g.closeOverlay(ctx, lsn); err != nil {
			g.log.Warn("checkpoint not closed", "checkpoint", uint64(lsn), "error", err)
		}
	}
}

// view opens a checkpoint for reading.
func (g *Group) view(lsn domain.LSN) (*history.View, error) {
	v, err := g.store.hist.View(lsn)
	if err != nil {
		return nil, fmt.Errorf("group %s at site %s: %w: see holdfast checkpoint list %s --site %s", g.id, g.cfg.Site, err, g.id, g.cfg.Site)
	}
	return v, nil
}

// reader keeps a checkpoint while it is being read piece by piece.
type reader struct {
	view *history.View
	idle *time.Timer
}

// readerIdle is how long a checkpoint is kept after a piece of it was read.
const readerIdle = time.Minute

// MaxCheckpointRead bounds one piece, in bytes.
const MaxCheckpointRead = 1 << 20

// ReadCheckpoint reads a piece of a volume as it was: see api.CheckpointReadRequest.
func (g *Group) ReadCheckpoint(req api.CheckpointReadRequest) (reply api.CheckpointPiece, err error) {
	then := g.store.slots().At(req.Checkpoint)
	i := then.Find(req.Volume)
	if i < 0 {
		return reply, fmt.Errorf("group %s has no volume %q at checkpoint %d: %w", g.id, req.Volume, req.Checkpoint, domain.ErrNotFound)
	}
	size := then[i].SizeBytes
	if req.Offset < 0 || req.Length < 0 || req.Length > MaxCheckpointRead || req.Offset > size-req.Length {
		return reply, fmt.Errorf("read %d bytes at %d of volume %s: %w", req.Length, req.Offset, req.Volume, domain.ErrInvalid)
	}
	v, err := g.reading(req.Checkpoint)
	if err != nil {
		return reply, err
	}
	data := make([]byte, req.Length)
	if _, err := v.ReadAt(i, data, req.Offset); err != nil {
		return reply, fmt.Errorf("read checkpoint %d of group %s: %w", req.Checkpoint, g.id, err)
	}
	reply.SizeBytes = size
	if !allZero(data) {
		reply.Data = data
	}
	return reply, nil
}

func (g *Group) reading(lsn domain.LSN) (*history.View, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r := g.readers[lsn]; r != nil && r.view.Listed() {
		r.idle.Reset(readerIdle)
		return r.view, nil
	}
	g.unreadLocked(lsn)
	v, err := g.view(lsn)
	if err != nil {
		return nil, err
	}
	g.readers[lsn] = &reader{view: v, idle: time.AfterFunc(readerIdle, func() { g.unread(lsn) })}
	return v, nil
}

func (g *Group) unread(lsn domain.LSN) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.unreadLocked(lsn)
}

// unreadLocked is unread under mu.
func (g *Group) unreadLocked(lsn domain.LSN) {
	if r := g.readers[lsn]; r != nil {
		r.idle.Stop()
		r.view.Close()
		delete(g.readers, lsn)
	}
}
