package pool

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/blockfile"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

// MaxDepth is how many layers a volume may have below one another.
const MaxDepth = 16

// Front is what serves open volumes to initiators.
type Front interface {
	// Add starts to serve a unit; a name that is served is domain.ErrConflict.
	Add(name string, u target.Unit) error
	// Remove stops serving a volume that nobody is logged in to; otherwise it is domain.ErrRefused.
	Remove(name string) error
	// Sessions is how many sessions a volume has, URL where it is reached.
	Sessions(name string) int
	URL(name string) string
}

// Options are what a pool is opened with. The zero value works on it without serving it.
type Options struct {
	// Create makes the pool when the folder is not there or empty.
	Create bool
	Front  Front
	Log    *slog.Logger
	// IO is how the volumes' blocks travel; empty is blockfile.Cached.
	IO blockfile.Mode
	// step is called after each durable step of an operation, in tests.
	step func(what string)
	// openMedium opens the files of layers, one that fails in tests.
	openMedium mediumOpener
}

// Pool is an open pool. No other process has it open.
type Pool struct {
	dir, id string
	log     *slog.Logger
	front   Front
	step    func(string)
	io      blockfile.Mode
	// openMedium opens the files of layers.
	openMedium mediumOpener
	lock       *os.File

	admin sync.Mutex // held by what changes the pool

	mu      sync.Mutex // guards the maps
	volumes map[string]*volume
	layers  map[string]layerRecord
	open    map[string]*openLayer
	damaged map[string]error // by name of the record's file
}

// Open opens a pool, and locks it. domain.ErrConflict: another process has it; domain.ErrNotFound: there is none.
func Open(dir string, o Options) (*Pool, error) {
	p := &Pool{dir: dir, log: o.Log, front: o.Front, step: o.step, io: o.IO, openMedium: o.openMedium, volumes: map[string]*volume{}, layers: map[string]layerRecord{},
		open: map[string]*openLayer{}, damaged: map[string]error{}}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.openMedium == nil {
		p.openMedium = openFile
	}
	if p.step == nil {
		p.step = func(string) {}
	}
	if o.Create {
		if err := makeFolders(dir); err != nil {
			return nil, fmt.Errorf("create pool %s: %w", dir, err)
		}
	}
	if err := p.claim(); err != nil {
		return nil, fmt.Errorf("open pool %s: %w", dir, err)
	}
	if err := p.load(o.Create); err != nil {
		return nil, errors.Join(fmt.Errorf("open pool %s: %w", dir, err), p.lock.Close())
	}
	return p, nil
}

// makeFolders refuses a folder that holds something else.
func makeFolders(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "pool.json")); err == nil {
		return nil
	}
	if entries, err := os.ReadDir(dir); err == nil {
		for _, e := range entries {
			if n := e.Name(); n != "volumes" && n != "layers" && n != "lock" && !strings.HasPrefix(n, ".new-") {
				return fmt.Errorf("the folder is not empty and no pool; give another: %w", domain.ErrInvalid)
			}
		}
	}
	return errors.Join(os.MkdirAll(filepath.Join(dir, "volumes"), 0o700), os.MkdirAll(filepath.Join(dir, "layers"), 0o700))
}

func (p *Pool) claim() error {
	if _, err := os.Stat(filepath.Join(p.dir, "volumes")); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no pool; make one with `holdfast volume create`: %w", domain.ErrNotFound)
	}
	lock, err := os.OpenFile(filepath.Join(p.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another process works on it; wait for its end: %w", domain.ErrConflict)
		}
		return errors.Join(err, lock.Close())
	}
	p.lock = lock
	return nil
}

// load reads every record, and removes what nothing uses.
func (p *Pool) load(create bool) error {
	rec, err := readRecord[poolRecord](p.path("pool.json"), "pool")
	if errors.Is(err, fs.ErrNotExist) && create {
		rec = poolRecord{ID: newID(4)}
		err = writeRecord(p.path("pool.json"), "pool", rec)
	}
	if err != nil {
		return err
	}
	p.id = rec.ID
	if err := eachRecord(p.path("layers"), func(id, path string) {
		if r, err := readRecord[layerRecord](path, "layer"); err != nil {
			p.damaged[path] = err
		} else {
			p.layers[id] = r
		}
	}); err != nil {
		return err
	}
	if err := eachRecord(p.path("volumes"), func(name, path string) {
		if r, err := readRecord[volumeRecord](path, "volume"); err != nil {
			p.damaged[path] = err
		} else {
			p.volumes[name] = &volume{name: name, rec: r}
		}
	}); err != nil {
		return err
	}
	for path, err := range p.damaged {
		p.log.Error("record is damaged", "path", path, "error", err)
	}
	return p.sweep()
}

func eachRecord(dir string, f func(name, path string)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".json"); ok && !strings.HasPrefix(name, ".") {
			f(name, filepath.Join(dir, e.Name()))
		}
	}
	return nil
}

func (p *Pool) path(parts ...string) string {
	return filepath.Join(append([]string{p.dir}, parts...)...)
}

func (p *Pool) volumePath(name string) string { return p.path("volumes", name+".json") }

func (p *Pool) layerPath(id, what string) string { return p.path("layers", id+"."+what) }

func newID(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // it never fails
	return hex.EncodeToString(b)
}

// Close makes every volume durable and lets go of the pool. The front no longer serves any.
func (p *Pool) Close() error {
	p.admin.Lock()
	defer p.admin.Unlock()
	var err error
	for _, v := range p.sorted() {
		err = errors.Join(err, p.closeVolume(v))
	}
	return errors.Join(err, p.lock.Close())
}

// CheckName refuses what cannot be a volume's name, which is part of its target's: RFC 3722's characters, 63 at most.
func CheckName(name string) error {
	ok := name != "" && len(name) <= 63 && name[0] != '-' && name[0] != '.'
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '.')
	}
	if !ok {
		return fmt.Errorf("name %q: use 1 to 63 of a-z, 0-9, - and ., beginning with a letter or digit: %w", name, domain.ErrInvalid)
	}
	return nil
}
