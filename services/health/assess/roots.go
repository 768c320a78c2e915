package assess

import (
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// hostAgent begins the names of the services that are hosts' agents.
var hostAgent = api.HostService("")

// hostOf is the host that something stands on; empty when it stands on none that is known.
func hostOf(o api.Observation) string {
	switch {
	case o.Kind == KindVM:
		return o.On
	case o.Kind == KindService && strings.HasPrefix(o.ID, hostAgent):
		return strings.TrimPrefix(o.ID, hostAgent)
	}
	return ""
}

// Racks are the racks of a site's hosts, as observations: a rack of two hosts or more is dead when all of them are, alive while one
// lives.
func Racks(observations []api.Observation, site domain.SiteID) []api.Observation {
	hosts := map[string][]api.Observation{}
	var order []string
	for _, o := range Merge(observations) {
		if o.Kind != KindHost || o.Site != site || o.On == "" {
			continue
		}
		if len(hosts[o.On]) == 0 {
			order = append(order, o.On)
		}
		hosts[o.On] = append(hosts[o.On], o)
	}
	var out []api.Observation
	for _, id := range order {
		if len(hosts[id]) > 1 {
			out = append(out, rackOf(id, hosts[id]))
		}
	}
	return out
}

// rackOf is as well as its best host.
func rackOf(id string, hosts []api.Observation) api.Observation {
	out := api.Observation{Kind: KindRack, ID: id, Site: hosts[0].Site, Path: KindHost, State: api.StateUnknown, Missed: hosts[0].Missed, Since: hosts[0].Since}
	var names []string
	for _, h := range hosts {
		names = append(names, h.ID)
		if rank(h.State) >= 0 && (rank(out.State) < 0 || rank(h.State) < rank(out.State)) {
			out.State = h.State
		}
		out.Missed = min(out.Missed, h.Missed)
		if h.Since.After(out.Since) {
			out.Since = h.Since
		}
	}
	if out.State == api.StateSuspect || out.State == api.StateDead {
		out.FirstMissed = earliest(hosts)
	}
	out.Detail = "hosts " + strings.Join(names, ", ")
	return out
}

// roots are the parts that explain everything that is hurt: a rack its hosts, a host its agent and its VMs, a replicator its port.
func roots(hurt []api.Observation) []string {
	dead := map[string]bool{}
	rack := map[string]string{} // of a dead host
	for _, o := range hurt {
		dead[o.Kind+"/"+o.ID] = true
		if o.Kind == KindHost {
			rack[o.ID] = o.On
		}
	}
	var out []string
	for _, o := range hurt {
		host := hostOf(o)
		explained := o.Kind == KindHost && o.On != "" && dead[KindRack+"/"+o.On] ||
			host != "" && dead[KindHost+"/"+host] ||
			o.Kind == KindPort && dead[KindReplicator+"/"+o.ID]
		if name := o.Kind + "/" + o.ID; !explained && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// witnesses are all observers that say something of a site as a whole, the doubting included.
func (d *decision) witnesses(site domain.SiteID) []api.Witness {
	var out []api.Witness
	add := func(v api.View) {
		seen := sitePaths(v, site)
		if v.Observer == site || len(seen) == 0 {
			return
		}
		counted := slices.ContainsFunc(d.vantages, func(x api.View) bool { return x.Observer == v.Observer })
		out = append(out, api.Witness{Observer: v.Observer, Confidence: v.Confidence, Counted: counted, Doubts: v.Doubts, Observations: seen})
	}
	add(d.in.Own)
	for _, s := range d.in.Sites {
		if v, ok := d.in.Views[s]; ok && s != d.in.Self {
			add(v)
		}
	}
	return out
}

// reporters are the observers whose observations of single parts these are.
func (d *decision) reporters(hurt []api.Observation) []api.Witness {
	var out []api.Witness
	for _, o := range hurt {
		i := slices.IndexFunc(out, func(w api.Witness) bool { return w.Observer == o.Observer })
		if i < 0 {
			view := d.in.Own
			if o.Observer != d.in.Self {
				view = d.in.Views[o.Observer]
			}
			i = len(out)
			out = append(out, api.Witness{Observer: o.Observer, Confidence: view.Confidence, Counted: !view.Sick, Doubts: view.Doubts})
		}
		out[i].Observations = append(out[i].Observations, o)
	}
	return out
}
