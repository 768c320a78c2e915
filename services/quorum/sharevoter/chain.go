package sharevoter

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/sealed"
)

// ErrCorrupt is a version whose content cannot be believed.
var ErrCorrupt = errors.New("vote record on the share is corrupt")

const (
	// Keep is how many versions behind the newest are never pruned.
	Keep = 32
	// slack is how many more may pile up before they are pruned.
	slack   = 32
	tempAge = time.Minute
	magic   = "holdfast-share-1"
)

// Chain is one client's view of one group's chain. Its methods may be called from any goroutine; they may block for as
// long as the share does.
type Chain struct{ dir string }

// Share is a shared folder as this site has it mounted.
type Share struct {
	Dir string
	// Local lets Dir be on a file system of this machine alone: for trying things out on one machine.
	Local bool
}

// ErrNotMounted is a folder on a file system of this machine where a share should be: what is written there no other site sees.
var ErrNotMounted = errors.New("no share is mounted there")

// Open makes a group's folder when missing, but never the share's own: one that is not mounted must not be made on the local disk. The
// error wraps domain.ErrUnavailable, with ErrNotMounted where a local file system is there in the share's place.
func (s Share) Open(cluster string, group domain.GroupID) (*Chain, error) {
	if !domain.ValidToken(cluster) || !domain.ValidToken(string(group)) {
		return nil, fmt.Errorf("open share voter for cluster %q group %q: not a name: %w", cluster, group, domain.ErrInvalid)
	}
	dir := filepath.Join(s.Dir, cluster, string(group))
	if err := s.there(); err != nil {
		return nil, fmt.Errorf("open share voter %s: %w", dir, err)
	}
	if err := s.makeDir(cluster, string(group)); err != nil {
		return nil, fmt.Errorf("open share voter %s: %w: %w", dir, domain.ErrUnavailable, err)
	}
	return &Chain{dir: dir}, nil
}

// there is nil where the share is mounted. It is looked at before each use: a share may be unmounted under a running service.
func (s Share) there() error {
	local, err := onLocalDisk(s.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", domain.ErrUnavailable, err)
	}
	if local && !s.Local {
		return fmt.Errorf("%w: %w: %s is on a file system of this machine alone; mount the share, or set quorum.share_local where this is meant",
			domain.ErrUnavailable, ErrNotMounted, s.Dir)
	}
	return nil
}

// makeDir makes folders below the share, which must be there.
func (s Share) makeDir(names ...string) error {
	dir := s.Dir
	for _, name := range names {
		dir = filepath.Join(dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// Read is the newest version and its record; version 0 and a zero record when nothing was ever written. The error wraps
// domain.ErrUnavailable, or ErrCorrupt.
func (c *Chain) Read() (uint64, core.Record, error) {
	// A version may be pruned between listing and reading when the chain moves Keep versions meanwhile.
	for range 3 {
		versions, err := c.versions()
		if err != nil {
			return 0, core.Record{}, err
		}
		newest := highest(versions)
		if newest == 0 {
			return 0, core.Record{}, nil
		}
		rec, err := c.read(newest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return newest, rec, err
	}
	return 0, core.Record{}, fmt.Errorf("read share voter %s: %w: it changes too fast", c.dir, domain.ErrUnavailable)
}

func (c *Chain) read(version uint64) (core.Record, error) {
	path := c.name(version)
	data, err := os.ReadFile(path)
	if err != nil {
		return core.Record{}, fmt.Errorf("read share voter %s: %w: %w", path, domain.ErrUnavailable, err)
	}
	body, ok := sealed.Open(magic, data)
	if !ok {
		return core.Record{}, fmt.Errorf("read share voter %s: %w: %w", path, domain.ErrRefused, ErrCorrupt)
	}
	var rec core.Record
	if err := json.Unmarshal(body, &rec); err != nil {
		return core.Record{}, fmt.Errorf("read share voter %s: %w: %w: %w", path, domain.ErrRefused, ErrCorrupt, err)
	}
	return rec, nil
}

// Swap writes rec as version expect+1 if and only if the newest version is expect. An error comes with core.SwapUnknown:
// the swap may have landed.
func (c *Chain) Swap(expect uint64, rec core.Record) (core.Swapped, error) {
	body, err := json.Marshal(rec)
	if err != nil {
		return core.SwapUnknown, fmt.Errorf("encode vote record: %w", err)
	}
	temp := filepath.Join(c.dir, ".temp-"+rand.Text())
	defer func() { _ = os.Remove(temp) }()
	if err := writeSynced(temp, sealed.Seal(magic, body)); err != nil {
		return core.SwapUnknown, fmt.Errorf("write share voter %s: %w: %w", c.dir, domain.ErrUnavailable, err)
	}
	return c.link(temp, expect)
}

func (c *Chain) link(temp string, expect uint64) (core.Swapped, error) {
	target := c.name(expect + 1)
	if err := os.Link(temp, target); err != nil && !c.landed(temp, target) {
		if errors.Is(err, fs.ErrExist) {
			return core.SwapLost, nil
		}
		return core.SwapUnknown, fmt.Errorf("swap share voter %s: %w: %w", target, domain.ErrUnavailable, err)
	}
	if err := durable.SyncDir(c.dir); err != nil {
		return core.SwapUnknown, fmt.Errorf("sync share voter %s: %w: %w", c.dir, domain.ErrUnavailable, err)
	}
	versions, err := c.versions()
	if err != nil {
		return core.SwapUnknown, err
	}
	if highest(versions) >= expect+1+Keep {
		return core.SwapLost, nil // the name was pruned long ago; what was just linked is never read
	}
	c.prune(versions)
	return core.SwapWon, nil
}

// landed reports whether target is temp: over NFS a link whose reply was lost is repeated and answers that the name exists.
func (c *Chain) landed(temp, target string) bool {
	a, errA := os.Stat(temp)
	b, errB := os.Stat(target)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// versions lists the chain, unsorted.
func (c *Chain) versions() ([]uint64, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("list share voter %s: %w: %w", c.dir, domain.ErrUnavailable, err)
	}
	var out []uint64
	for _, e := range entries {
		if digits, ok := strings.CutPrefix(e.Name(), "v"); ok {
			if n, err := strconv.ParseUint(digits, 10, 64); err == nil {
				out = append(out, n)
			}
		}
	}
	return out, nil
}

// prune removes versions far behind the newest. Failure is harmless: the next swap tries again.
func (c *Chain) prune(versions []uint64) {
	if len(versions) < Keep+slack {
		return
	}
	newest := highest(versions)
	for _, v := range versions {
		if v+Keep <= newest {
			_ = os.Remove(c.name(v))
		}
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".temp-") {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > tempAge {
			_ = os.Remove(filepath.Join(c.dir, e.Name()))
		}
	}
}

func (c *Chain) name(version uint64) string {
	return filepath.Join(c.dir, fmt.Sprintf("v%020d", version))
}

func highest(versions []uint64) uint64 {
	var top uint64
	for _, v := range versions {
		top = max(top, v)
	}
	return top
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
