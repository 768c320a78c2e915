package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Relays are the addresses of the relays by which this site reaches others: host:port by the site that is reached.
func (c Config) Relays() map[domain.SiteID]string {
	out := map[domain.SiteID]string{}
	for _, s := range c.Sites {
		if s.Via != "" {
			out[s.ID] = c.site(s.Via).Relay
		}
	}
	return out
}

// RelayTo is where this site's relay forwards to: host:port of the NATS server by its site. Empty: it has no relay.
func (c Config) RelayTo() map[domain.SiteID]string {
	out := map[domain.SiteID]string{}
	for _, id := range c.Relay.To {
		if u, err := url.Parse(c.site(id).NATS); err == nil {
			out[id] = u.Host
		}
	}
	return out
}

// site is a site's entry; the zero value for one that is not known.
func (c Config) site(id domain.SiteID) Site {
	i := slices.IndexFunc(c.Sites, func(s Site) bool { return s.ID == id })
	if i < 0 {
		return Site{}
	}
	return c.Sites[i]
}

// validateVia wants each way round to lead over one other site that is reached directly.
func (c Config) validateVia(v *validator) {
	for i, s := range c.Sites {
		f := fmt.Sprintf("sites[%d]", i)
		if s.Relay != "" {
			v.hostPort(f+".relay", s.Relay)
		}
		by := c.site(s.Via)
		switch {
		case s.Via == "":
		case s.ID == c.Site:
			v.bad(f+".via", "a site reaches itself without another", "remove it")
		case by.ID == "" || s.Via == s.ID || s.Via == c.Site:
			v.bad(f+".via", fmt.Sprintf("%q cannot stand between this site and site %s", string(s.Via), s.ID), "name another site of sites, one that relays to it")
		case by.Via != "":
			v.bad(f+".via", fmt.Sprintf("site %s is itself reached via site %s", s.Via, by.Via), "name a site that this one reaches directly: a relay leads one step")
		case by.Relay == "":
			v.bad(f+".via", fmt.Sprintf("site %s has no relay", s.Via), fmt.Sprintf("give its entry relay: host:port, as this site reaches the one that relay.listen opens at site %s", s.Via))
		}
	}
}

// validateRelay wants destinations that this site reaches by itself.
func (c Config) validateRelay(v *validator) {
	r := c.Relay
	if r.Listen == "" {
		if len(r.To) > 0 {
			v.bad("relay.listen", "missing", "give the host:port where other sites connect to this site's relay, or remove relay.to")
		}
		return
	}
	v.hostPort("relay.listen", r.Listen)
	if host, _, err := net.SplitHostPort(r.Listen); err == nil && c.Security.Secrets == "" && !isLoopback(host) {
		v.bad("relay.listen", fmt.Sprintf("%q can be reached from elsewhere, and servers of an installation without security.secrets ask for no credentials", r.Listen),
			"make certificates and credentials with holdfast site init, or listen on a loopback address")
	}
	if len(r.To) == 0 {
		v.bad("relay.to", "none", "name the sites that others may reach by this one, or remove relay.listen")
	}
	seen := map[domain.SiteID]string{}
	for i, id := range r.To {
		f := fmt.Sprintf("relay.to[%d]", i)
		once(v, seen, f, id, "name each site once")
		switch s := c.site(id); {
		case s.ID == "" || id == c.Site:
			v.bad(f, fmt.Sprintf("%q is no other site", string(id)), "name a site of sites that others reach by this one")
		case s.Via != "":
			v.bad(f, fmt.Sprintf("this site reaches site %s via site %s", id, s.Via), "relay to sites that this one reaches directly: a relay leads one step")
		}
	}
	if n := r.ConnectionsPerPeer; n < 1 || n > 1024 {
		v.bad("relay.connections_per_peer", fmt.Sprintf("%d is out of range", n), "give 1 to 1024; 128 are enough for most")
	}
}
