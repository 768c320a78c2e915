package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

// eventFilter is which events to show. Entities and types are filtered by the server, groups here.
type eventFilter struct {
	entities, types, groups []string
	since                   string
	all                     bool
	begin                   time.Time // parsed from since
}

func (f *eventFilter) flags(c *cobra.Command) {
	fl := c.Flags()
	fl.StringSliceVar(&f.entities, "entity", nil, "only events about these: "+strings.Join(entities(), ", "))
	fl.StringSliceVar(&f.types, "type", nil, "only events of these types, for example hf.v1.group.promoted or group.promoted (holdfast event catalogue lists them)")
	fl.StringSliceVar(&f.groups, "group", nil, "only events that concern these groups, their VMs, names and runs")
	fl.StringVar(&f.since, "since", "", "begin with what was stored since then: a duration (90m, 24h) or a time (2026-11-23T01:30:00Z)")
	fl.BoolVar(&f.all, "all", false, "begin with the oldest event that is still kept")
}

func entities() []string {
	var out []string
	for _, d := range event.Catalogue() {
		if !slices.Contains(out, d.Entity) {
			out = append(out, d.Entity)
		}
	}
	return out
}

// check refuses what can never match, and works out where to begin.
func (f *eventFilter) check() error {
	for _, e := range f.entities {
		if known := entities(); !slices.Contains(known, e) {
			return fmt.Errorf("--entity %q: %w: use one of %s", e, domain.ErrInvalid, strings.Join(known, ", "))
		}
	}
	for i, t := range f.types {
		if !strings.HasPrefix(t, "hf.v1.") {
			f.types[i] = "hf.v1." + t
		}
		if err := knownType(f.types[i]); err != nil {
			return err
		}
	}
	if len(f.entities)+len(f.types) > 0 && len(f.subjects("a")) == 0 {
		return fmt.Errorf("--type %s with --entity %s: %w: no event is both", strings.Join(f.types, ","), strings.Join(f.entities, ","), domain.ErrInvalid)
	}
	if f.since == "" {
		return nil
	}
	if f.all {
		return fmt.Errorf("--since with --all: %w: use one of them", domain.ErrInvalid)
	}
	if d, err := time.ParseDuration(f.since); err == nil && d >= 0 {
		f.begin = time.Now().Add(-d)
		return nil
	}
	t, err := time.Parse(time.RFC3339, f.since)
	if err != nil {
		return fmt.Errorf("--since %q: %w: use a duration as 90m, or a time as 2026-11-23T01:30:00Z", f.since, domain.ErrInvalid)
	}
	f.begin = t
	return nil
}

func (f *eventFilter) from() string {
	switch {
	case f.all:
		return bus.FromStart
	case !f.begin.IsZero():
		return bus.FromTime(f.begin)
	}
	return bus.FromNew
}

// subjects are what to ask the server for; none means everything.
func (f *eventFilter) subjects(site domain.SiteID) []string {
	if len(f.entities) == 0 && len(f.types) == 0 {
		return nil
	}
	var out []string
	for _, d := range event.Catalogue() {
		if (len(f.entities) == 0 || slices.Contains(f.entities, d.Entity)) && (len(f.types) == 0 || slices.Contains(f.types, d.Type())) {
			out = append(out, "hf.v1.evt."+string(site)+"."+d.Entity+".*."+d.Fact)
		}
	}
	return out
}

// wants applies what the server cannot.
func (f *eventFilter) wants(fact event.Fact) bool {
	if len(f.groups) == 0 {
		return true
	}
	return slices.ContainsFunc(event.Groups(fact), func(g domain.GroupID) bool { return slices.Contains(f.groups, string(g)) })
}
