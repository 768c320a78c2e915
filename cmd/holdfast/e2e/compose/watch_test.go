//go:build e2e_compose

package compose

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

const watcherName = prefix + "cli"

// watcher is an operator who looks at every site past every cut link: one container that follows the events, in which the
// other commands are run.
type watcher struct {
	f   *fleet
	cmd *exec.Cmd

	mu      sync.Mutex
	events  []event.Event
	changed chan struct{} // closed and replaced at each event
}

func startWatcher(f *fleet) (*watcher, error) {
	w := &watcher{f: f, changed: make(chan struct{})}
	w.cmd = f.composeCmd(context.WithoutCancel(f.t.Context()), f.places["w"], "run", "--rm", "-T", "--name", watcherName, "cli", "event", "watch", "--all", "--output", "json", "--timeout", "60s")
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	var errs strings.Builder
	w.cmd.Stderr = &errs
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		known := map[string]bool{}
		for s := bufio.NewScanner(out); s.Scan(); {
			e, _, err := event.Decode(s.Bytes())
			if err == nil && !known[e.ID+e.Source] {
				known[e.ID+e.Source] = true
				w.add(e)
			}
		}
		_ = w.cmd.Wait()
		if f.t.Context().Err() == nil {
			fmt.Printf("the watcher ended: %s\n", errs.String())
		}
	}()
	return w, nil
}

func (w *watcher) add(e event.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
	close(w.changed)
	w.changed = make(chan struct{})
}

// since are the events after a moment, as the sites date them.
func (w *watcher) since(moment time.Time) []event.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []event.Event
	for _, e := range w.events {
		if e.Time.After(moment) {
			out = append(out, e)
		}
	}
	return out
}

// kinds are the kinds of event since a moment, and the sites that told them, in the order they came.
func (w *watcher) kinds(moment time.Time) []string {
	var out []string
	for _, e := range w.since(moment) {
		site, _, _ := strings.Cut(strings.TrimPrefix(e.Source, "/site/"), "/")
		if kind := strings.TrimPrefix(e.Type, "hf.v1.") + " at " + site; !slices.Contains(out, kind) {
			out = append(out, kind)
		}
	}
	return out
}

// await returns the first event for which ok holds, waiting for it if need be.
func (w *watcher) await(ctx context.Context, what string, ok func(event.Event) bool) (event.Event, error) {
	n := 0
	for {
		w.mu.Lock()
		events, changed := w.events, w.changed
		w.mu.Unlock()
		for ; n < len(events); n++ {
			if ok(events[n]) {
				return events[n], nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return event.Event{}, fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
}

// of says whether an event is of a kind, told by a site after a moment.
func of(kind string, site domain.SiteID, after time.Time) func(event.Event) bool {
	return func(e event.Event) bool {
		return e.Type == "hf.v1."+kind && strings.HasPrefix(e.Source, "/site/"+string(site)+"/") && e.Time.After(after)
	}
}

// factOf is an event's payload, nil when the catalogue does not have it.
func factOf(e event.Event) event.Fact {
	raw, err := json.Marshal(e)
	if err != nil {
		return nil
	}
	_, fact, err := event.Decode(raw)
	if err != nil {
		return nil
	}
	return fact
}

// partial is the exit code of a command that printed its answer without what some sites did not say.
const partial = 4

// exec runs a command of the command line and decodes its answer, a partial one as well.
func (w *watcher) exec(ctx context.Context, into any, args ...string) error {
	out, err := docker(ctx, append([]string{"exec", watcherName, "/holdfast"}, args...)...)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != partial) {
		return err
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("read the answer to %v: %w: %s", args, err, out)
	}
	return nil
}

// siteStatus is what holdfast status says of a site, as far as it is asked for.
type siteStatus struct {
	Site       domain.SiteID         `json:"site"`
	Reachable  bool                  `json:"reachable"`
	Quorum     *api.QuorumStatus     `json:"quorum"`
	Health     *api.HealthStatus     `json:"health"`
	Replicator *api.ReplicatorStatus `json:"replicator"`
	Failover   *api.FailoverStatus   `json:"failover"`
	Problems   []string              `json:"problems"`
}

func (w *watcher) status(ctx context.Context) (map[domain.SiteID]siteStatus, error) {
	var all struct{ Sites []siteStatus }
	if err := w.exec(ctx, &all, "status", "--output", "json", "--timeout", "4s"); err != nil {
		return nil, err
	}
	out := map[domain.SiteID]siteStatus{}
	for _, s := range all.Sites {
		out[s.Site] = s
	}
	return out, nil
}

// copyAt is a site's copy of the group.
func (s siteStatus) copyAt() (api.GroupStatus, bool) {
	if s.Replicator != nil {
		for _, g := range s.Replicator.Groups {
			if g.Group == group {
				return g, true
			}
		}
	}
	return api.GroupStatus{}, false
}
