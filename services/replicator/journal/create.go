package journal

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// createChunk is how much Create writes at a time.
const createChunk = 4 << 20

// Create makes the journal file at path, which must not exist (ErrExists): reserved, filled with zeroes and durable
// before it gets its name, so that a full disk shows now (and the partial file is removed) and never later.
// It takes about as long as writing SizeBytes does. The journal begins with epoch 0 and LSN 0: RaiseEpoch comes first.
func Create(ctx context.Context, fs FS, path string, cfg Config) (*Journal, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("create journal %s: %w", path, err)
	}
	switch exists, err := fs.Exists(path); {
	case err != nil:
		return nil, fmt.Errorf("create journal %s: %w", path, err)
	case exists:
		return nil, fmt.Errorf("create journal %s: %w", path, ErrExists)
	}
	partial := path + ".creating"
	file, err := fs.Create(partial)
	if err != nil {
		return nil, fmt.Errorf("create journal %s: %w", path, err)
	}
	j := newJournal(path, file, cfg.SizeBytes, cfg.seam)
	j.super = superblock{fileSize: cfg.SizeBytes, group: cfg.Group}
	j.next = Next{Number: 1, FirstLSN: 1}
	if err = fill(ctx, file, cfg.SizeBytes); err == nil {
		err = j.commitSuper(j.super.clone(), 2, 0)
	}
	if err == nil {
		err = fs.Rename(partial, path)
	}
	if err == nil {
		return j, nil
	}
	if errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("no room for %d bytes: %w", cfg.SizeBytes, err)
	}
	err = errors.Join(err, file.Close(), fs.Remove(partial))
	return nil, fmt.Errorf("create journal %s: %w", path, err)
}

func (c Config) validate() error {
	least := int64(MinSize)
	if c.seam.minSize != 0 {
		least = c.seam.minSize
	}
	if !domain.ValidToken(string(c.Group)) {
		return fmt.Errorf("group %q: %w", c.Group, domain.ErrInvalid)
	}
	if c.SizeBytes < least || c.SizeBytes%PageSize != 0 {
		return fmt.Errorf("size of %d bytes, want at least %d, in whole pages: %w", c.SizeBytes, least, domain.ErrInvalid)
	}
	return nil
}

func newJournal(path string, file vfs.File, size int64, seam seam) *Journal {
	return &Journal{path: path, seam: seam, ring: ring{file: file, size: size - ringOffset}, slot: vfs.Aligned(slotSize)}
}

// fill reserves the file, writes it full of zeroes (a block that is only reserved costs a metadata write the first
// time it is written, which halves the rate) and makes that durable.
func fill(ctx context.Context, file vfs.File, size int64) error {
	if err := file.Allocate(size); err != nil {
		return fmt.Errorf("reserve %d bytes: %w", size, err)
	}
	zero := vfs.Aligned(int(min(createChunk, size)))
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(int64(len(zero)), size-off)
		if err := whole(file.WriteAt, zero[:n], off, "write"); err != nil {
			return err
		}
		off += n
	}
	return file.Sync()
}
