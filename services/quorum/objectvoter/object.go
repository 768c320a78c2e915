package objectvoter

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/sealed"
)

var (
	// ErrCorrupt is an object whose content cannot be believed.
	ErrCorrupt = errors.New("vote record in the object store is corrupt")
	// ErrWentBack is an object whose version was higher before: it was removed, or an older one was put back.
	ErrWentBack = errors.New("vote record in the object store went back")
)

const magic = "holdfast-object-1"

// Object is one client's view of one group's record. Its methods may be called from any goroutine.
type Object struct {
	b   *Bucket
	key string

	mu sync.Mutex
	// version is the newest that was seen, tag its ETag: a swap over it need not read first. tag is empty for version 0, and where
	// nothing was seen yet.
	seen    bool
	version uint64
	tag     string
}

// content is what an object says.
type content struct {
	Version uint64      `json:"version"`
	Drawn   string      `json:"drawn"` // at random, for each swap
	Record  core.Record `json:"record"`
}

// Read is the newest version and its record; version 0 and a zero record when nothing was ever written. The error wraps
// domain.ErrUnavailable, or domain.ErrRefused with ErrCorrupt or ErrNonconforming.
func (o *Object) Read() (uint64, core.Record, error) {
	if err := o.b.enrolled(); err != nil {
		return 0, core.Record{}, err
	}
	c, err := o.read()
	return c.Version, c.Record, err
}

func (o *Object) read() (content, error) {
	before := o.newest()
	got, err := o.b.get(o.key)
	if err != nil {
		return content{}, err
	}
	c, err := decode(got.data)
	if err != nil {
		return content{}, fmt.Errorf("read object voter %s: %w: %w", o.key, domain.ErrRefused, err)
	}
	if c.Version < before {
		return content{}, fmt.Errorf("read object voter %s: %w: %w from version %d to %d: votes given since are forgotten; give the voter no weight, "+
			"wait for a lease's time, and start the service again", o.key, domain.ErrRefused, ErrWentBack, before, c.Version)
	}
	o.saw(c.Version, got.tag)
	return c, nil
}

func (o *Object) newest() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.version
}

// saw keeps the newest version that was seen. Two reads may end in another order than they were answered in.
func (o *Object) saw(version uint64, tag string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.seen || version >= o.version {
		o.seen, o.version, o.tag = true, version, tag
	}
}

// tagOf is the ETag of a version, false where it is not the newest seen.
func (o *Object) tagOf(version uint64) (string, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tag, o.seen && o.version == version
}

// Swap writes rec as version expect+1 if and only if the newest version is expect. An error comes with core.SwapUnknown: the
// swap may have landed, unless it wraps domain.ErrRefused.
func (o *Object) Swap(expect uint64, rec core.Record) (core.Swapped, error) {
	if err := o.b.enrolled(); err != nil {
		return core.SwapUnknown, err
	}
	tag, known := o.tagOf(expect)
	if !known {
		now, err := o.read()
		if err != nil {
			return core.SwapUnknown, err
		}
		if tag, known = o.tagOf(expect); now.Version != expect || !known {
			return core.SwapLost, nil // nothing was sent
		}
	}
	next := content{Version: expect + 1, Drawn: rand.Text(), Record: rec}
	data, err := encode(next)
	if err != nil {
		return core.SwapUnknown, err
	}
	if err := o.b.put(o.key, tag, data); err != nil {
		return o.landed(next, err)
	}
	return core.SwapWon, nil
}

// landed reads back what came of a swap that the store did not confirm. A refusal too: a proxy may have sent the request twice, and
// then the second is refused because the first landed.
func (o *Object) landed(mine content, cause error) (core.Swapped, error) {
	now, err := o.read()
	switch {
	case err != nil:
		return core.SwapUnknown, errors.Join(cause, err)
	case now.Version == mine.Version && now.Drawn == mine.Drawn:
		return core.SwapWon, nil
	case now.Version == mine.Version:
		return core.SwapLost, nil // that version is another's for good
	case errors.Is(cause, errTaken):
		return core.SwapUnknown, nil // more than one version on, or taken back
	}
	return core.SwapUnknown, cause
}

func encode(c content) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode vote record: %w", err)
	}
	return sealed.Seal(magic, body), nil
}

// decode reads what encode made; nothing is the content of no object. The error is ErrCorrupt.
func decode(data []byte) (content, error) {
	if data == nil {
		return content{}, nil
	}
	body, ok := sealed.Open(magic, data)
	if !ok {
		return content{}, fmt.Errorf("%w: %d bytes, checksum differs", ErrCorrupt, len(data))
	}
	var c content
	if err := json.Unmarshal(body, &c); err != nil || c.Version == 0 {
		return content{}, fmt.Errorf("%w: version %d: %w", ErrCorrupt, c.Version, errors.Join(err))
	}
	return c, nil
}
