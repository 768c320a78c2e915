package health

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
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

// maxEvidence bounds the documents that are kept; the oldest go first. Each was published besides.
const maxEvidence = 256

// records are the documents of evidence this site's observer concluded from, on disk, a file each. Its methods may be called from any
// goroutine.
type records struct {
	dir  string // empty: kept in memory only
	site domain.SiteID
	log  *slog.Logger

	mu   sync.Mutex
	kept []api.Evidence // oldest first
	last int64          // of an ID
}

// openRecords reads what is kept. A document that cannot be read is left alone and said in the log.
func openRecords(dir string, site domain.SiteID, log *slog.Logger) *records {
	r := &records{site: site, log: log}
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

// add keeps the document of a change, and gives it its ID. That it is not on disk is said in the log: the event carries it, too.
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
	if r.dir != "" {
		data, err := json.MarshalIndent(e, "", "  ")
		if err == nil {
			err = identity.WriteFile(r.path(e.ID), data, 0o600)
		}
		if err != nil {
			r.log.Warn("evidence not kept on disk", "id", e.ID, "error", err)
		}
	}
	for len(r.kept) > maxEvidence {
		if r.dir != "" {
			if err := os.Remove(r.path(r.kept[0].ID)); err != nil {
				r.log.Warn("old evidence not removed", "id", r.kept[0].ID, "error", err)
			}
		}
		r.kept = r.kept[1:]
	}
	return e
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
