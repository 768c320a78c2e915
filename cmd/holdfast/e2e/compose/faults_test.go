//go:build e2e_compose

package compose

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// link is the network between two sites as one of them sees it.
type link struct {
	name string
	of   *place
}

// links are both of a site's.
func (f *fleet) links(p *place) []link { return []link{{p.wan[0], p}, {p.wan[1], p}} }

// between is the one between two sites.
func (f *fleet) between(a, b domain.SiteID) []link { return []link{{wanOf(a, b), f.places[a]}} }

// isolate cuts a site off from both others at one moment: the bridges of its two links go down. Taking its containers off
// the networks one by one takes seconds, in which the site would find its target gone while it still has the witness, and
// rightly go on without the target: then nobody could take over without a loss.
func (f *fleet) isolate(ctx context.Context, p *place) error {
	return f.bridges(ctx, p, "down")
}

// rejoin ends that.
func (f *fleet) rejoin(ctx context.Context, p *place) error {
	return f.bridges(ctx, p, "up")
}

func (f *fleet) bridges(ctx context.Context, p *place, state string) error {
	for _, l := range f.links(p) {
		if _, err := command(ctx, "ip", "link", "set", "dev", bridgeOf(l.name), state); err != nil {
			return err
		}
	}
	return nil
}

// cut takes all containers of a site off these networks. Nothing is told to either end: connections hang, as when the
// provider's router is gone.
func (f *fleet) cut(ctx context.Context, links []link) error {
	for _, l := range links {
		all, err := f.own(ctx, l.of)
		if err != nil {
			return err
		}
		if err := off(ctx, l, all); err != nil {
			return err
		}
	}
	return nil
}

func off(ctx context.Context, l link, all []container) error {
	return each(all, func(c container) error {
		_, err := docker(ctx, "network", "disconnect", "--force", l.name, c.ID)
		return err
	})
}

// disconnect takes all containers of a site off both of its links, the one to the witness first and its quorum before the
// others: however long it takes, at no time can the site find its target gone and still have a majority to go on without it.
func (f *fleet) disconnect(ctx context.Context, p *place) error {
	all, err := f.own(ctx, p)
	if err != nil {
		return err
	}
	votes := slices.DeleteFunc(slices.Clone(all), func(c container) bool { return c.Service != "quorum" })
	others := slices.DeleteFunc(all, func(c container) bool { return c.Service == "quorum" })
	links := append(f.between(p.id, "w"), link{wanOf(p.id, other(p.id)), p})
	for _, some := range [][]container{votes, others} {
		for _, l := range links {
			if err := off(ctx, l, some); err != nil {
				return err
			}
		}
	}
	return nil
}

// reconnect ends that.
func (f *fleet) reconnect(ctx context.Context, p *place) error { return f.heal(ctx, f.links(p)) }

// heal puts them back, with the names they had.
func (f *fleet) heal(ctx context.Context, links []link) error {
	for _, l := range links {
		all, err := f.own(ctx, l.of)
		if err != nil {
			return err
		}
		if err := each(all, func(c container) error {
			args := []string{"network", "connect"}
			if name := map[string]string{"nats": "nats-", "replicator": "line-"}[c.Service]; name != "" {
				args = append(args, "--alias", name+string(l.of.id))
			}
			_, err := docker(ctx, append(args, l.name, c.ID)...)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// toAll is one docker command for all containers of a site: pause, unpause, kill, start.
func (f *fleet) toAll(ctx context.Context, p *place, verb ...string) error {
	all, err := f.own(ctx, p)
	if err != nil {
		return err
	}
	_, err = docker(ctx, ids(verb, all)...)
	return err
}

// crash kills a service of a site as a fault of the program would, and waits until the restart policy has it run again.
func (f *fleet) crash(ctx context.Context, p *place, service string) error {
	c, err := f.container(ctx, p, service)
	if err != nil {
		return err
	}
	before, err := inspect(ctx, c.ID)
	if err != nil {
		return err
	}
	if err := killHard(ctx, c); err != nil {
		return err
	}
	return await(ctx, c.Name+" to run again", 200*time.Millisecond, func() (bool, string) {
		now, err := inspect(ctx, c.ID)
		if err != nil {
			return false, err.Error()
		}
		return now.State.Status == "running" && now.State.Pid != before.State.Pid, fmt.Sprintf("%s, restarts %d", now.State.Status, now.RestartCount)
	})
}

// unhealthy are the containers whose own health check does not hold, in words.
func (f *fleet) unhealthy(ctx context.Context) string {
	var bad []string
	for _, p := range f.places {
		all, err := f.own(ctx, p)
		if err != nil {
			return err.Error()
		}
		for _, c := range all {
			i, err := inspect(ctx, c.ID)
			if err != nil {
				return err.Error()
			}
			if i.State.Status != "running" || i.State.Health != nil && i.State.Health.Status != "healthy" {
				bad = append(bad, fmt.Sprintf("%s %s", c.Name, i.State.Status))
			}
		}
	}
	return strings.Join(bad, ", ")
}
