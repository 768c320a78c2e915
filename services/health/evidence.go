package health

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

const (
	maxEvidence  = 256         // documents that are kept; the oldest go first. Each was published besides
	maxUnwritten = 64          // documents that wait for the disk; the oldest go first
	endWithin    = time.Second // the end waits for the disk no longer
)

// records are the documents of evidence this site's observer concluded from, on disk, a file each. Its methods may be called from any
// goroutine. A goroutine of its own writes them: the observer waits for no disk.
type records struct {
	dir  string // empty: kept in memory only
	site domain.SiteID
	log  *slog.Logger
	save func(path string, data []byte) error

	mu        sync.Mutex
	kept      []api.Evidence // oldest first
	last      int64          // of an ID
	unwritten []api.Evidence // wait for the disk, oldest first
	behind    bool           // some did not wait, and the log says so
	gone      []string       // IDs of documents that are to leave the disk
	wake      chan struct{}  // there is something to write
}

// openRecords reads what is kept. A document that cannot be read is left alone and said in the log.
func openRecords(dir string, site domain.SiteID, log *slog.Logger) *records {
	r := &records{site: site, log: log, save: saveEvidence, wake: make(chan struct{}, 1)}
	if dir == "" {
		return r
	}
	r.dir = filepath.Join(dir, "evidence")
	files, err := filepath.Glob(filepath.Join(r.dir, "*.json"))
	for _, f := range files {
		var e api.Evidence
		data, rerr := os.ReadFile(f)
		if rerr == nil {
			rerr = json.Unmarshal(data, &e)
		}
		if rerr == nil && e.ID+".json" != filepath.Base(f) {
			rerr = fmt.Errorf("it says it is %q: %w", e.ID, domain.ErrInvalid)
		}
		if err = errors.Join(err, rerr); rerr == nil {
			r.kept = append(r.kept, e)
		}
	}
	if err != nil {
		log.Warn("evidence not read", "dir", r.dir, "error", err)
	}
	slices.SortFunc(r.kept, func(a, b api.Evidence) int { return cmp.Or(a.At.Compare(b.At), strings.Compare(a.ID, b.ID)) })
	return r
}

func saveEvidence(path string, data []byte) error { return identity.WriteFile(path, data, 0o600) }

// add keeps the document of a change, gives it its ID and has it written. It waits for no disk.
func (r *records) add(at time.Time, c assess.Change) api.Evidence {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = max(r.last+1, at.UnixMilli())
	e := api.Evidence{ID: string(r.site) + "-" + strconv.FormatInt(r.last, 36), Site: r.site, At: at.UTC(), Entity: c.Entity, Fact: c.Fact,
		Assessment: c.Assessment, Witnesses: c.Witnesses, FirstMissed: c.FirstMissed}
	if c.Object.ID != "" { // a link
		e.Assessment = api.Assessment{Site: c.Object.Site, Class: api.ClassWAN, Objects: []string{c.Entity + "/" + c.Object.ID}, Since: c.FirstMissed,
			Parts: []string{c.Entity + "/" + c.Object.ID}, Text: c.Object.Detail}
	}
	e.Assessment.Evidence = nil // the witnesses have it
	r.kept = append(r.kept, e)
	var gone []string
	for len(r.kept) > maxEvidence {
		gone = append(gone, r.kept[0].ID)
		r.kept = r.kept[1:]
	}
	if r.dir != "" {
		r.queue(e, gone)
	}
	return e
}

// queue has the writer write a document and remove others. What does not fit is dropped, the oldest first: the events carry the
// documents, and a file too many is removed after the next start.
func (r *records) queue(e api.Evidence, gone []string) {
	r.unwritten, r.gone = append(r.unwritten, e), append(r.gone, gone...)
	if len(r.unwritten) > maxUnwritten {
		if !r.behind {
			r.log.Warn("the disk is too slow for evidence: the oldest that waits is not kept on disk", "id", r.unwritten[0].ID)
		}
		r.behind, r.unwritten = true, r.unwritten[1:]
	}
	if n := len(r.gone) - maxEvidence; n > 0 {
		r.gone = r.gone[n:]
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// start begins to write. What it returns ends that: it waits for what is unwritten, but not for a disk that hangs.
func (r *records) start() (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for ended := false; !ended; r.flush() {
			select {
			case <-r.wake:
			case <-end:
				ended = true
			}
		}
	}()
	return func() {
		close(end)
		select {
		case <-done:
		case <-time.After(endWithin):
			r.log.Warn("evidence not all on disk at the end: the disk is too slow")
		}
	}
}

// flush writes what waits. That a document is not on disk is said in the log.
func (r *records) flush() {
	for {
		e, gone, ok := r.next()
		if !ok {
			return
		}
		data, err := json.MarshalIndent(e, "", "  ")
		if err == nil {
			err = r.save(r.path(e.ID), data)
		}
		if err != nil {
			r.log.Warn("evidence not kept on disk", "id", e.ID, "error", err)
		}
		for _, id := range gone {
			if err := os.Remove(r.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				r.log.Warn("old evidence not removed", "id", id, "error", err)
			}
		}
	}
}

// next takes the oldest document that waits, and what is to be removed.
func (r *records) next() (e api.Evidence, gone []string, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.unwritten) == 0 {
		r.behind = false
		return e, nil, false
	}
	e, gone = r.unwritten[0], r.gone
	r.unwritten, r.gone = r.unwritten[1:], nil
	return e, gone, true
}

func (r *records) path(id string) string { return filepath.Join(r.dir, id+".json") }

// find is the evidence verb's answer.
func (r *records) find(q api.EvidenceRequest) (api.EvidenceReply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := api.EvidenceReply{Evidence: []api.Evidence{}}
	for _, e := range slices.Backward(r.kept) {
		if q.ID == e.ID {
			out.Evidence = append(out.Evidence, e)
			return out, nil
		}
		if q.ID == "" {
			e.Witnesses = nil
			out.Evidence = append(out.Evidence, e)
		}
	}
	if q.ID != "" {
		return out, fmt.Errorf("site %s keeps no evidence %q, of %d documents: %w", r.site, q.ID, len(r.kept), domain.ErrNotFound)
	}
	return out, nil
}

// documented reports whether a change has a document of evidence.
func documented(c assess.Change) bool {
	switch c.Entity {
	case assess.EntityDisaster:
		return true
	case assess.EntityIncident:
		return c.Fact == assess.FactOpened
	}
	return c.Entity == assess.KindLink && c.Fact == assess.FactLost
}
