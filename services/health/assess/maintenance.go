package assess

import (
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// silenced reports whether an open window covers an object.
func (d *decision) silenced(o api.Observation) bool {
	if o.Kind == KindLink {
		return d.linkSilenced(o.ID)
	}
	return slices.ContainsFunc(d.in.Maintenance, func(p api.Part) bool { return p.Covers(api.Part{Kind: o.Kind, Site: o.Site, ID: o.ID}, o.On) })
}

// siteSilenced reports whether a whole site is under maintenance.
func (d *decision) siteSilenced(site domain.SiteID) bool {
	return slices.Contains(d.in.Maintenance, api.Part{Kind: KindSite, Site: site, ID: string(site)})
}

// linkSilenced reports whether a link is, or a site at one of its ends.
func (d *decision) linkSilenced(id string) bool {
	return slices.ContainsFunc(d.in.Maintenance, func(p api.Part) bool {
		return p.Kind == KindLink && p.ID == id || p.Kind == KindSite && d.touches(id, p.Site)
	})
}

// heard drops what is under maintenance of what is hurt at one site. A VM is silenced by its host's rack, too.
func (d *decision) heard(all, hurt []api.Observation) []api.Observation {
	rack := func(o api.Observation, host string) string {
		for _, h := range all {
			if h.Kind == KindHost && h.ID == host && h.Site == o.Site {
				return h.On
			}
		}
		return ""
	}
	return slices.DeleteFunc(hurt, func(o api.Observation) bool {
		if d.silenced(o) {
			return true
		}
		host := hostOf(o)
		return host != "" && d.silenced(api.Observation{Kind: KindHost, ID: host, Site: o.Site, On: rack(o, host)})
	})
}

// note writes the open windows into the assessment of the site they concern.
func (d *decision) note() {
	for i, a := range d.out {
		for _, p := range d.in.Maintenance {
			if p.Site == a.Site || p.Kind == KindLink && d.touches(p.ID, a.Site) {
				d.out[i].Maintained = append(d.out[i].Maintained, p.String())
			}
		}
	}
}

// touches reports whether a site is at one of a link's ends. Names may hold '-', so that the ID is compared and not taken apart.
func (d *decision) touches(link string, site domain.SiteID) bool {
	return slices.ContainsFunc(d.in.Sites, func(other domain.SiteID) bool { return other != site && link == LinkID(site, other) })
}
