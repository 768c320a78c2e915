package planner

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// fieldRules are what the field's documentation advises.
func fieldRules() []Rule {
	return []Rule{
		{"Q01", "node majority with fewer than three nodes", (*check).fewNodes},
		{"Q02", "an even number of votes over several sites", (*check).evenVotes},
		{"Q03", "the primary site has no more votes than the secondary", (*check).primarySmall},
		{"Q04", "node majority over more than two sites", (*check).manySites},
		{"Q05", "the share or witness stands in a site with nodes", (*check).witnessAmongNodes},
		{"Q06", "node and disk majority over several sites", (*check).diskOverSites},
		{"Q07", "disk only", (*check).diskOnly},
		{"Q08", "the voting disk is on replicated storage", (*check).diskReplicated},
		{"Q09", "a witness that other installations count on", (*check).sharedWitness},
		{"Q10", "support servers unprotected or brought up late", (*check).support},
		{"Q11", "names live longer than the recovery may take", (*check).ttl},
	}
}

// fewNodes counts votes: where one voter stands for a site, its weight stands for the site's nodes.
func (c *check) fewNodes() {
	if n := c.report.Total; c.Model == core.NodeMajority && n < 3 {
		c.say(Warning, "", "node majority with "+plural(n, "vote"), "the loss of one vote, or of the link between two, stops every group",
			"add a third vote: a witness site, or a share or object with node_and_share_majority")
	}
}

func (c *check) evenVotes() {
	if !c.multiSite() || c.report.Total%2 != 0 {
		return
	}
	text := fmt.Sprintf("%d votes over %s", c.report.Total, plural(len(c.dataSites()), "data site"))
	for _, k := range c.report.Partitions {
		if len(k.Sides) == 2 && k.Sides[0].Votes == k.Sides[1].Votes {
			text += fmt.Sprintf("; %s | %s is an even split", strings.Join(k.Sides[0].Places, " "), strings.Join(k.Sides[1].Places, " "))
			break
		}
	}
	c.say(Warning, "", text, "where the votes split evenly neither side has a majority, and both stop",
		"make the number of votes odd: add a witness or a share, or give one voter one vote more or none")
}

// primarySmall asks for a larger primary of two sites where nobody outside them could decide between them.
func (c *check) primarySmall() {
	data := c.dataSites()
	outside := slices.ContainsFunc(c.voting(), func(v Voter) bool { return !slices.Contains(data, v.Site) })
	if c.Model != core.NodeMajority || len(data) != 2 || outside || !c.homesKnown() {
		return
	}
	for _, home := range c.homes() {
		for _, other := range data {
			if mine, theirs := c.votesAt(string(home)), c.votesAt(string(other)); other != home && mine <= theirs {
				c.say(Warning, string(home), fmt.Sprintf("primary site %s has %s, site %s has %d", home, plural(mine, "vote"), other, theirs),
					fmt.Sprintf("the loss of site %s, or of the link to it, stops the groups of site %s", other, home),
					fmt.Sprintf("give site %s more votes than site %s, or add a witness in a third place", home, other))
			}
		}
	}
}

func (c *check) manySites() {
	var sites []domain.SiteID
	for _, v := range c.nodes() {
		if !slices.Contains(sites, v.Site) {
			sites = append(sites, v.Site)
		}
	}
	if c.Model == core.NodeMajority && len(sites) > 2 {
		c.say(Note, "", fmt.Sprintf("node majority over %d sites: %s", len(sites), list(sites)),
			"the field advises two sites at most: with more, each site must reach enough of the others, and who serves after a partition is harder to foresee (see the partitions below)",
			"with two data sites and a witness set quorum.model to node_and_share_majority; with three data sites look at the partitions and keep it")
	}
}

func (c *check) witnessAmongNodes() {
	for _, v := range c.voting() {
		if !c.extra(v) || v.Kind == core.KindDisk {
			continue
		}
		if v.Unsaid && v.Site == "" {
			c.unknown(string(v.ID), fmt.Sprintf("where the %s stands was not said", v.ID), fmt.Sprintf("list {id: %s, site: …} among quorum.voters, without site where it stands at none of the sites", v.ID))
			continue
		}
		if !slices.ContainsFunc(c.nodes(), func(n Voter) bool { return n.Site == v.Site }) {
			continue
		}
		text := fmt.Sprintf("%s stands in site %s, beside a node that votes", v.called(), v.Site)
		mend := "put it in a third place that holds no other voter"
		if !c.homesKnown() {
			continue
		}
		if slices.Contains(c.homes(), v.Site) {
			c.say(Warning, string(v.ID), text, fmt.Sprintf("the loss of primary site %s takes both votes: no other site can take over by itself", v.Site), mend)
			continue
		}
		c.say(Error, string(v.ID), text, fmt.Sprintf("the loss of site %s, where nothing runs, takes both votes and stops what runs at %s", v.Site, list(c.homes())), mend)
	}
}

func (c *check) diskOverSites() {
	if c.Model == core.NodeAndDiskMajority && c.multiSite() {
		c.say(Warning, "", "node and disk majority over several sites",
			"the disk stands in one of them: its site holds two votes, and a cut link leaves the other without the disk",
			"use node_and_share_majority with a witness site or a share in a third place")
	}
}

func (c *check) diskOnly() {
	if c.Model != core.DiskOnly {
		return
	}
	severity, more := Warning, ""
	if c.multiSite() {
		severity, more = Error, "; over several sites the loss of the disk's site stops every other"
	}
	c.say(severity, "", "the disk alone votes", "the loss of that disk, or of the way to it, stops every group whatever else is well"+more,
		"use node_and_share_majority, or node_and_disk_majority within one site")
}

func (c *check) diskReplicated() {
	for _, v := range c.passive() {
		if v.Kind != core.KindDisk {
			continue
		}
		switch v.Replicated {
		case domain.ModeAsync:
			c.say(Error, string(v.ID), "the voting disk is on storage that is replicated asynchronously",
				"after a failover of that storage the disk has forgotten votes it gave: two sites can be granted the same group", "put it on a LUN that is not replicated")
		case domain.ModeSync:
			c.say(Warning, string(v.ID), "the voting disk is on storage that is replicated synchronously",
				"the storage decides by itself which copy answers: cut off, both may, and each grants the vote", "put it on a LUN that is not replicated")
		case domain.ModeNone:
		default:
			c.unknown(string(v.ID), "whether the voting disk's storage is replicated was not said", "list {id: "+string(v.ID)+", replicated: none} among quorum.voters, or sync or async")
		}
	}
}

func (c *check) sharedWitness() {
	for _, v := range c.voting() {
		switch {
		case v.Kind == core.KindNode:
		case len(v.Clusters) > 0:
			c.say(Note, string(v.ID), fmt.Sprintf("%s votes for other installations too: %s", v.called(), strings.Join(v.Clusters, ", ")),
				"its loss takes a vote from each of them at the same time", "see that none of them is one loss away from standing still while it is down for maintenance")
		case v.Unsaid:
			c.unknown(string(v.ID), fmt.Sprintf("whether other installations count on %s was not said", v.called()), fmt.Sprintf("list {id: %s} among quorum.voters, with clusters: […] where there are any", v.ID))
		}
	}
}

func (c *check) support() {
	if len(c.Support) == 0 {
		c.unknown("", "no support servers are named: directory, DNS, remote desktop", "list the VMs that others need to be of use under support")
		return
	}
	for _, id := range c.Support {
		g, ok := c.groupOf(id)
		if !ok {
			c.say(Warning, string(id), fmt.Sprintf("support server %s is in no protection group", id), "after a failover what needs it comes up and is of no use", "protect it, or say what stands in for it at the other site")
			continue
		}
		if who := c.notBehind(g, id); len(who) > 0 {
			c.say(Warning, string(id), fmt.Sprintf("support server %s of group %s is not brought up before %s", id, g.ID, strings.Join(who, ", ")),
				"they come up before what they need, and may fail or hang", "give it a lower priority number in its group, and its group in the plan")
		}
	}
}

func (c *check) groupOf(id domain.VMID) (domain.Group, bool) {
	for _, g := range c.Groups {
		if slices.ContainsFunc(g.VMs, func(v domain.VM) bool { return v.ID == id }) {
			return g, true
		}
	}
	return domain.Group{}, false
}

// notBehind names what does not wait for a support server: VMs of its group, and groups of its plan, that hold no support server.
func (c *check) notBehind(g domain.Group, id domain.VMID) []string {
	var own domain.VM
	for _, v := range g.VMs {
		if v.ID == id {
			own = v
		}
	}
	var out []string
	for _, v := range g.VMs {
		if !slices.Contains(c.Support, v.ID) && own.Priority >= v.Priority && !slices.Contains(v.DependsOn, id) {
			out = append(out, "vm "+string(v.ID))
		}
	}
	for _, p := range c.Plans {
		i := slices.IndexFunc(p.Groups, func(x domain.PlanGroup) bool { return x.Group == g.ID })
		if i < 0 {
			continue
		}
		for _, x := range p.Groups {
			if x.Group != g.ID && !c.holdsSupport(x.Group) && p.Groups[i].Priority >= x.Priority && !slices.Contains(x.DependsOn, g.ID) {
				out = append(out, "group "+string(x.Group))
			}
		}
	}
	return out
}

func (c *check) holdsSupport(id domain.GroupID) bool {
	return slices.ContainsFunc(c.Support, func(v domain.VMID) bool { g, ok := c.groupOf(v); return ok && g.ID == id })
}

func (c *check) ttl() {
	var untold []domain.GroupID
	for _, g := range c.Groups {
		if c.TTL == 0 || !slices.ContainsFunc(g.VMs, func(v domain.VM) bool { return len(v.DNS) > 0 }) {
			continue
		}
		rto, ok := c.RTO[g.ID]
		switch {
		case !ok:
			untold = append(untold, g.ID)
		case c.TTL > rto:
			c.say(Warning, string(g.ID), fmt.Sprintf("its names live %v (dns.ttl), its recovery time target is %v", c.TTL, rto),
				"clients ask the old address for longer than the recovery may take", fmt.Sprintf("set dns.ttl to %v or less", rto))
		}
	}
	if len(untold) > 0 {
		c.unknown(list(untold), fmt.Sprintf("no recovery time target is set for %s with names", plural(len(untold), "group")), "set groups[].rto")
	}
}
