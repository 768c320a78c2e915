package health

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

const (
	maxWindows      = 64   // that are not over
	maxText         = 1024 // bytes of what people say of a window
	maintenanceFile = "maintenance.json"
)

// windows are the maintenance windows a site knows: those announced here, and those the other sites' views tell. They are on disk
// before they count. Its methods may be called from any goroutine. Windows run on the wall clock, for people set them; nothing else does.
type windows struct {
	file string // empty: kept in memory only
	site domain.SiteID

	changing sync.Mutex // held by whoever writes; the disk may be slow, and the observer reads meanwhile

	mu   sync.Mutex
	all  map[string]api.Maintenance
	last int64 // of an ID, so that none is given twice
}

// openWindows reads what a file keeps. A file that cannot be read is an error: a forgotten window could declare a disaster of a site that
// is being worked on. What is over at the given time is left out.
func openWindows(dir string, site domain.SiteID, at time.Time) (*windows, error) {
	w := &windows{site: site, all: map[string]api.Maintenance{}}
	if dir == "" {
		return w, nil
	}
	w.file = filepath.Join(dir, maintenanceFile)
	data, err := os.ReadFile(w.file)
	if errors.Is(err, fs.ErrNotExist) {
		return w, nil
	}
	var list []api.Maintenance
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	if err != nil {
		return nil, fmt.Errorf("read maintenance windows %s: %w: announce them anew and remove the file", w.file, err)
	}
	for _, m := range list {
		if at.Before(m.Until) {
			w.all[m.ID] = m
		}
	}
	return w, nil
}

// list is every window that is not over, the ended ones included, by ID.
func (w *windows) list(at time.Time) []api.Maintenance {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sorted(at)
}

func (w *windows) sorted(at time.Time) []api.Maintenance {
	var out []api.Maintenance
	for _, m := range w.all {
		if at.Before(m.Until) {
			out = append(out, m)
		}
	}
	slices.SortFunc(out, func(a, b api.Maintenance) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// active is what is under maintenance at an instant.
func (w *windows) active(at time.Time) []api.Part {
	var out []api.Part
	for _, m := range w.list(at) {
		if m.Active(at) {
			out = append(out, m.About)
		}
	}
	return out
}

// change announces or ends a window, durable when it returns.
func (w *windows) change(at time.Time, c api.MaintenanceChange, by string) (api.Maintenance, error) {
	w.changing.Lock()
	defer w.changing.Unlock()
	w.mu.Lock()
	m, err := w.changed(at, c, by)
	w.mu.Unlock()
	if err != nil {
		return m, err
	}
	return m, w.put(at, m)
}

func (w *windows) changed(at time.Time, c api.MaintenanceChange, by string) (api.Maintenance, error) {
	if c.End != "" {
		m, ok := w.all[c.End]
		if !ok || !m.Active(at) {
			return m, fmt.Errorf("end maintenance %q: site %s knows no such window that is open: see holdfast health maintenance list: %w", c.End, w.site, domain.ErrNotFound)
		}
		m.Ended = at.UTC()
		return m, nil
	}
	if c.For <= 0 || c.For > api.MaxMaintenance {
		return api.Maintenance{}, fmt.Errorf("maintenance for %v: must be above zero and at most %v, announce it again when it takes longer: %w", c.For, api.MaxMaintenance, domain.ErrInvalid)
	}
	if len(w.sorted(at)) >= maxWindows {
		return api.Maintenance{}, fmt.Errorf("maintenance: %d windows are known already: wait for one to pass: %w", maxWindows, domain.ErrRefused)
	}
	w.last = max(w.last+1, at.UnixMilli())
	return api.Maintenance{ID: string(w.site) + "-" + strconv.FormatInt(w.last, 36), About: c.About, From: at.UTC(), Until: at.Add(c.For).UTC(),
		Why: c.Why, By: by, Claimed: c.By}, nil
}

// put keeps a window: first on disk, without those that are over.
func (w *windows) put(at time.Time, m api.Maintenance) error {
	list := slices.DeleteFunc(w.list(at), func(x api.Maintenance) bool { return x.ID == m.ID })
	if w.file != "" {
		data, err := json.MarshalIndent(append(list, m), "", "  ")
		if err == nil {
			err = identity.WriteFile(w.file, data, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep maintenance window %s: %w", m.ID, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all[m.ID] = m
	return nil
}

// learn takes what another site's view tells: windows that are new here, and those that were ended. It waits for nobody else who writes:
// the view tells them again half a beat later, and a disk that hangs must not hold up every question to a peer.
func (w *windows) learn(at time.Time, told []api.Maintenance) error {
	told = slices.DeleteFunc(slices.Clone(told), func(m api.Maintenance) bool { _, news := w.news(at, m); return !news })
	if len(told) == 0 || !w.changing.TryLock() {
		return nil
	}
	defer w.changing.Unlock()
	var all error
	for _, m := range told {
		if m, news := w.news(at, m); news {
			all = errors.Join(all, w.put(at, m))
		}
	}
	return all
}

// news is what a window that was told changes here.
func (w *windows) news(at time.Time, m api.Maintenance) (api.Maintenance, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	have, known := w.all[m.ID]
	switch {
	case m.ID == "" || !at.Before(m.Until) || m.Until.Sub(at) > api.MaxMaintenance+time.Hour: // an hour for clocks that differ
		return m, false
	case known && (m.Ended.IsZero() || !have.Ended.IsZero()):
		return m, false
	case !known && len(w.sorted(at)) >= maxWindows:
		return m, false
	case known:
		have.Ended = m.Ended
		return have, true
	}
	return m, true
}

// over takes out what is over since it was last asked for.
func (w *windows) over(at time.Time) []api.Maintenance {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []api.Maintenance
	for id, m := range w.all {
		if !at.Before(m.Until) {
			delete(w.all, id)
			if m.Ended.IsZero() {
				out = append(out, m)
			}
		}
	}
	return out
}

// maintain is the maintain verb. It is in the audit before it counts.
func (s *service) maintain(ctx context.Context, c api.MaintenanceChange) (api.Maintenance, error) {
	if err := s.mayMaintain(c); err != nil {
		return api.Maintenance{}, err
	}
	what := "maintenance_announced." + c.About.String()
	if c.End != "" {
		what = "maintenance_ended." + c.End
	}
	entry := audit.Entry{Who: audit.Who(ctx), Claimed: c.By, From: c.Host, Why: c.Why, What: what, Run: domain.RunID(rand.Text())}
	entry.Data, _ = json.Marshal(c) // plain fields always encode
	if err := audit.Append(ctx, s.mesh.Local(), entry); err != nil {
		return api.Maintenance{}, fmt.Errorf("maintenance: it cannot be recorded in the audit of site %s, so nothing was changed: try again: %w", s.cfg.Site, err)
	}
	m, err := s.windows.change(time.Now(), c, audit.Who(ctx))
	if err != nil {
		entry.What = "maintenance_refused." + cmp.Or(c.End, c.About.String())
		if rerr := audit.Append(ctx, s.mesh.Local(), entry); rerr != nil {
			s.log.Warn("the audit says that maintenance changed, and it was refused", "error", err, "audit", rerr)
		}
		return m, err
	}
	s.log.Info("maintenance changed", "about", m.About.String(), "until", m.Until, "ended", !m.Ended.IsZero(), "why", c.Why)
	s.tellWindow(ctx, m)
	return m, nil
}

// believable reports whether a window another site tells is one a site of the installation can have announced. Any site may pass it on.
func (s *service) believable(m api.Maintenance) bool {
	made := slices.ContainsFunc(s.cfg.Sites, func(x Site) bool {
		stamp, ok := strings.CutPrefix(m.ID, string(x.ID)+"-")
		_, err := strconv.ParseInt(stamp, 36, 64)
		return ok && err == nil
	})
	return made && len(m.ID) <= maxText && len(m.By) <= maxText && s.mayMaintain(api.MaintenanceChange{About: m.About, Why: m.Why, By: m.Claimed}) == nil
}

func (s *service) mayMaintain(c api.MaintenanceChange) error {
	if c.Why == "" {
		return fmt.Errorf("maintenance: say why, it is kept in the audit: %w", domain.ErrInvalid)
	}
	if len(c.Why) > maxText || len(c.By) > maxText {
		return fmt.Errorf("maintenance: why and by whom: at most %d bytes each: %w", maxText, domain.ErrInvalid)
	}
	if c.End != "" {
		return nil
	}
	about, err := api.ParsePart(c.About.String())
	if err != nil || about != c.About {
		return fmt.Errorf("maintenance of %s: %w", c.About, errors.Join(err, domain.ErrInvalid))
	}
	known := slices.ContainsFunc(s.cfg.Sites, func(x Site) bool { return x.ID == about.Site })
	if about.Kind == "link" {
		for _, a := range s.cfg.Sites {
			for _, b := range s.cfg.Sites {
				known = known || a.ID != b.ID && about.ID == string(a.ID)+"-"+string(b.ID)
			}
		}
	}
	if !known {
		return fmt.Errorf("maintenance of %s: the installation has no such site: %w", about, domain.ErrNotFound)
	}
	return nil
}

// tellWindow publishes that a window was announced or is over.
func (s *service) tellWindow(ctx context.Context, m api.Maintenance) {
	fact := "announced"
	if !m.Ended.IsZero() || !time.Now().Before(m.Until) {
		fact = "ended"
	}
	s.pub.events.Publish(ctx, fmt.Sprintf("%s-maintenance-%s-%s", s.cfg.Site, m.ID, fact), event.MaintenanceChanged{Fact: fact, Site: s.cfg.Site, Window: m})
}
