package demo

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// console is an outsider with a connection to each site's server, past every cut link: it follows the events, asks for
// states, and starts runs. Nothing it does is needed for a failover.
type console struct {
	mesh *bus.Mesh
	tell *teller

	mu      sync.Mutex
	events  []seen
	changed chan struct{}
}

// seen is one event as a site's stream has it.
type seen struct {
	site domain.SiteID
	ev   event.Event
	fact event.Fact
}

func newConsole(l layout, tell *teller) (*console, error) {
	urls := map[domain.SiteID]string{}
	for s := range l.octet {
		urls[s] = "nats://" + l.natsAddr(s)
	}
	mesh, err := bus.Dial(bus.Config{Site: siteW, Service: "console", URLs: urls, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return &console{mesh: mesh, tell: tell, changed: make(chan struct{})}, nil
}

// follow collects a site's events until ctx ends, through the site's restarts.
func (c *console) follow(ctx context.Context, site domain.SiteID) {
	conn, err := c.mesh.Conn(site)
	if err != nil {
		return
	}
	known := map[string]bool{}
	for ctx.Err() == nil {
		if conn.AwaitConnected(ctx) != nil {
			return
		}
		_ = conn.FollowEvents(ctx, nil, bus.FromStart, func(_ context.Context, e event.Event, f event.Fact) {
			if !known[e.ID] {
				known[e.ID] = true
				c.add(seen{site, e, f})
			}
		}) // the stream may not be there yet
		wait(ctx, pollEvery)
	}
}

const pollEvery = 100 * time.Millisecond

// wait pauses between two looks at a state that is only to be had by asking.
func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (c *console) add(s seen) {
	c.mu.Lock()
	c.events = append(c.events, s)
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	c.narrate(s)
}

// all is every event so far.
func (c *console) all() []seen {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]seen(nil), c.events...)
}

// await returns the first event for which ok holds, waiting for it if need be.
func (c *console) await(ctx context.Context, what string, ok func(seen) bool) (seen, error) {
	n := 0
	for {
		c.mu.Lock()
		events, changed := c.events, c.changed
		c.mu.Unlock()
		for ; n < len(events); n++ {
			if ok(events[n]) {
				return events[n], nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return seen{}, fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		}
	}
}

// awaitRun waits until a run of a kind that began after `after` has ended at a site.
func (c *console) awaitRun(ctx context.Context, site domain.SiteID, kind string, after time.Time) (api.Run, error) {
	s, err := c.await(ctx, kind+" run at site "+string(site), func(s seen) bool {
		r, ok := s.fact.(*event.RunChanged)
		return ok && s.site == site && r.Fact != "started" && r.Run.Kind == kind && r.Run.Started.After(after)
	})
	if err != nil {
		return api.Run{}, err
	}
	run := s.fact.(*event.RunChanged).Run
	if run.State != api.StepDone {
		return run, fmt.Errorf("run %s of kind %s at site %s ended %s: %s", run.ID, kind, site, run.State, run.Error)
	}
	return run, nil
}

// replica is a group's copy at a site.
func (c *console) replica(ctx context.Context, site domain.SiteID, g domain.GroupID) (api.GroupStatus, error) {
	conn, err := c.mesh.Conn(site)
	if err != nil {
		return api.GroupStatus{}, err
	}
	st, err := bus.Call[api.ReplicatorStatus](ctx, conn, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{Group: g})
	if err != nil {
		return api.GroupStatus{}, err
	}
	for _, s := range st.Groups {
		if s.Group == g {
			return s, nil
		}
	}
	return api.GroupStatus{}, fmt.Errorf("group %s at site %s: %w", g, site, domain.ErrNotFound)
}

// narrate tells an event in words, once each kind where several sites see the same.
func (c *console) narrate(s seen) {
	switch f := s.fact.(type) {
	case *event.DisasterChanged:
		if f.Fact == "over" {
			c.tell.good("site %s sees site %s again", s.site, f.Assessment.Site)
		} else {
			c.tell.bad("site %s: loss of site %s %s (seen from %v)", s.site, f.Assessment.Site, f.Fact, f.Assessment.Seen)
		}
	case *event.DisasterDeclared:
		c.tell.bad("disaster declared for site %s by %s: %s", f.Site, f.By, f.Reason)
	case *event.IncidentChanged:
		c.tell.note("site %s: incident %s: %s", s.site, f.Fact, f.Assessment.Text)
	case *event.LeaseChanged:
		c.tell.note("group %s: %s at site %s, epoch %s %s", f.Group, words(f.Fact), f.Site, f.Epoch, f.Reason)
	case *event.ReplicaChanged:
		c.tell.note("group %s at site %s: %s %s%s", f.Group, f.Site, words(f.Fact), f.Target, resyncWords(f))
	case *event.WritesQuarantined:
		c.tell.note("group %s at site %s: %d diverged writes (%d bytes) kept aside in %s", f.Item.Group, f.Item.Site, f.Item.Writes, f.Item.Bytes, f.Item.Path)
	case *event.RunChanged:
		c.tell.note("run %s (%s) %s at site %s %s", short(f.Run.ID), f.Run.Kind, f.Fact, s.site, f.Run.Error)
	case *event.StepChanged:
		if f.Fact == "step_failed" {
			c.tell.bad("step %s failed: %s", f.Step.ID, f.Step.Error)
		}
	case *event.VMChanged:
		c.tell.good("VM %s %s on host %s of site %s %s", f.VM.VM, words(f.Fact), f.Host, f.Site, f.Reason)
	case *event.NameChanged:
		c.tell.good("name %s %s: %s -> %s %s", f.Name, f.Fact, f.Before, f.After, f.Reason)
	}
}

func words(fact string) string {
	out := []rune(fact)
	for i, r := range out {
		if r == '_' {
			out[i] = ' '
		}
	}
	return string(out)
}

func resyncWords(f *event.ReplicaChanged) string {
	if f.Fact == "resync_completed" && f.Volume > 0 {
		return fmt.Sprintf(": %d KiB of %d MiB sent", f.Bytes>>10, f.Volume>>20)
	}
	return ""
}

func short(id domain.RunID) string {
	if len(id) > 6 {
		return string(id[len(id)-6:])
	}
	return string(id)
}
