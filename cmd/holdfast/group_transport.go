package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// groupTransport are the flags of group set that say how changes travel, and what is kept of the past.
type groupTransport struct {
	rates, schedules, compressions, windows []string
	durability                              string
	checkpoints                             bool
	every, appEvery, age                    time.Duration
	count                                   int
	bytes                                   string
}

func (o *groupTransport) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&o.rates, "rate-limit", nil, "SITE=RATE: the most that is sent to an asynchronous target a second, as c=10MiB; 0 is no limit")
	f.StringArrayVar(&o.schedules, "schedule", nil, "SITE=[DAYS@]FROM-TO RATE: another limit for a time of day, as 'c=mon,tue@08:00-18:00 2MiB'; all windows of a target, the first that applies counts; SITE=none takes them away")
	f.StringArrayVar(&o.compressions, "compression", nil, "SITE=none or SITE=s2")
	f.StringArrayVar(&o.windows, "window", nil, "SITE=BYTES: how much may be on its way to a target that no write waits for, as c=4MiB; 0 is the default, 16MiB")
	f.StringVar(&o.durability, "durability", "", "strict or cached; cached is in force once another site serves the group, as guests that run do not learn of a write cache")
	f.BoolVar(&o.checkpoints, "checkpoints", true, "whether targets keep checkpoints")
	f.DurationVar(&o.every, "checkpoint-every", 0, "the time between two checkpoints, while writes come")
	f.DurationVar(&o.appEvery, "app-checkpoint-every", 0, "the time between two application-consistent checkpoints; 0 is none")
	f.DurationVar(&o.age, "keep-age", 0, "for how long checkpoints are kept")
	f.IntVar(&o.count, "keep-count", 0, "how many checkpoints are kept")
	f.StringVar(&o.bytes, "keep-bytes", "", "what checkpoints may take at each target, as 16GiB")
}

// request adds what was given.
func (o *groupTransport) request(cmd *cobra.Command, req *api.GroupSetRequest) error {
	req.Durability = domain.Durability(o.durability)
	change := func(flag string, given []string, set func(x *domain.TransportChange, value string) error) error {
		for _, g := range given {
			site, value, ok := strings.Cut(g, "=")
			if !ok {
				return fmt.Errorf("--%s %q: %w: write SITE=VALUE", flag, g, domain.ErrInvalid)
			}
			if req.Transports == nil {
				req.Transports = map[domain.SiteID]domain.TransportChange{}
			}
			x := req.Transports[domain.SiteID(site)]
			if err := set(&x, value); err != nil {
				return fmt.Errorf("--%s %q: %w", flag, g, err)
			}
			req.Transports[domain.SiteID(site)] = x
		}
		return nil
	}
	err := change("rate-limit", o.rates, func(x *domain.TransportChange, value string) error {
		x.RateLimit = new(domain.Rate)
		return x.RateLimit.UnmarshalText([]byte(value))
	})
	if err != nil {
		return err
	}
	if err := change("schedule", o.schedules, addWindow); err != nil {
		return err
	}
	err = change("compression", o.compressions, func(x *domain.TransportChange, value string) error {
		x.Compression = new(domain.Compression(value))
		return nil
	})
	if err != nil {
		return err
	}
	err = change("window", o.windows, func(x *domain.TransportChange, value string) error {
		x.Window = new(domain.Bytes)
		return x.Window.UnmarshalText([]byte(value))
	})
	if err != nil {
		return err
	}
	return o.past(cmd, req)
}

func addWindow(x *domain.TransportChange, value string) error {
	if x.Schedule == nil {
		x.Schedule = &[]domain.RateWindow{}
	}
	if value == "none" {
		return nil
	}
	w, err := domain.ParseRateWindow(value)
	*x.Schedule = append(*x.Schedule, w)
	return err
}

// past adds what was given of checkpoints.
func (o *groupTransport) past(cmd *cobra.Command, req *api.GroupSetRequest) error {
	x, changed := domain.CheckpointsChange{}, cmd.Flags().Changed
	if changed("checkpoints") {
		x.Disabled = new(!o.checkpoints)
	}
	if changed("checkpoint-every") {
		x.Every = &o.every
	}
	if changed("app-checkpoint-every") {
		x.AppEvery = &o.appEvery
	}
	if changed("keep-age") {
		x.Age = &o.age
	}
	if changed("keep-count") {
		x.Count = &o.count
	}
	if changed("keep-bytes") {
		size, err := config.ParseSize(o.bytes)
		if err != nil {
			return fmt.Errorf("--keep-bytes: %w: %w", domain.ErrInvalid, err)
		}
		x.Bytes = new(int64(size))
	}
	if x != (domain.CheckpointsChange{}) {
		req.Checkpoints = &x
	}
	return nil
}
