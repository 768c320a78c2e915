package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// groupSettings are the flags of group set, as they were given.
type groupSettings struct {
	targets, remove, place []string
	prefer                 string
	pin, forbid            []string
	returnAfter            time.Duration
	returnWithin           []string
	rpo, holdDown          time.Duration
	tier                   int
	congestion             string
	loss, failover         string
	approvers, autoPerDay  int
	autoWindows            []string
	revision               uint64
	reason, by             string
	settled                bool
	groupTransport
}

func groupSetCommand(r *remote, site *string) *cobra.Command {
	o := new(groupSettings)
	c := &cobra.Command{Use: "set GROUP", Short: "Change a group's policy while it serves", Args: exactly(1, "one GROUP"),
		Long: "Changes what is asked of a group's targets while its VMs write. What no flag names stays as it is.\n\n" +
			"A target that becomes synchronous catches up first, and counts as in sync only once the quorum has it. One that no longer is, is waited\n" +
			"for until the quorum has let go of it. With mode none, and when it is removed, nothing more is sent: its copy stays at that site as it is.",
		Example: "  holdfast group set erp --target b=sync --target c=async --rpo 5s\n" +
			"  holdfast group set erp --pin a,b --prefer a   # never at another site; a first. --pin '' lets it go\n" +
			"  holdfast group set erp --prefer a --return-after 30m --return-within sat,sun@02:00-05:00\n" +
			"  holdfast group set erp --remove-target c --reason 'site c is given up'\n" +
			"  holdfast group set erp --rate-limit c=20MiB --schedule 'c=mon,tue,wed,thu,fri@08:00-18:00 2MiB' --compression c=s2 --window c=4MiB",
		RunE: func(cmd *cobra.Command, args []string) error {
			return groupSet(cmd, r, *site, domain.GroupID(args[0]), o)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&o.targets, "target", nil, "SITE=MODE: a target and its mode, sync, async or none; a site that is no target yet is added")
	f.StringArrayVar(&o.remove, "remove-target", nil, "SITE: a target to remove; its copy stays at that site as it is")
	f.StringArrayVar(&o.place, "place", nil, "VM@SITE=ADDRESS,HOST[,HOST...]: where a VM lives at a site that is added")
	f.DurationVar(&o.rpo, "rpo", 0, "the target for the loss of an asynchronous group, as 5s")
	f.StringVar(&o.loss, "on-target-loss", "", "what a synchronous group does when it loses its target: suspend or degrade")
	f.StringVar(&o.congestion, "congestion", "", "what a primary does when an asynchronous target cannot follow: overflow, or throttle its writers")
	f.StringVar(&o.prefer, "prefer", "", "the site that takes the group over first; '' for none")
	f.StringSliceVar(&o.pin, "pin", nil, "SITE[,SITE...]: the only sites that may serve the group; '' for any")
	f.StringSliceVar(&o.forbid, "forbid", nil, "SITE[,SITE...]: sites that never serve the group, and keep their copies; '' for none")
	f.DurationVar(&o.returnAfter, "return-after", 0, "move to the preferred site by itself once its copy there has been in sync for so long; 0, the default: never")
	f.StringArrayVar(&o.returnWithin, "return-within", nil, "[DAY[,DAY...]@]HH:MM-HH:MM: a part of the day in which that move may begin; '' for always")
	f.IntVar(&o.tier, "tier", 0, "1 business critical, 2 important, 3 low")
	f.StringVar(&o.failover, "failover", "", "auto, confirm or manual")
	f.IntVar(&o.approvers, "approvers", 0, "how many people a group with failover confirm asks, 1 or 2; with another --failover it is taken back")
	f.StringArrayVar(&o.autoWindows, "auto-window", nil, "[DAY[,DAY...]@]HH:MM-HH:MM: a part of the day in which failover auto needs nobody; '' for always")
	f.IntVar(&o.autoPerDay, "auto-per-day", 0, "how often in 24 hours failover auto needs nobody; 0: as often as it comes")
	f.DurationVar(&o.holdDown, "hold-down", 0, "how long a disaster lasts before an automatic failover")
	f.Uint64Var(&o.revision, "revision", 0, "refuse when the group's desired state at the site that serves it is not at this revision (see group show)")
	f.StringVar(&o.reason, "reason", "", "why; kept in the audit")
	f.StringVar(&o.by, "by", "", "who; by default the user of this system")
	f.BoolVar(&o.settled, "wait", false, "wait until every target is as it was asked to be, and not only until the primary goes by the change")
	o.flags(c)
	return c
}

// request makes the flags that were given a request.
func (o *groupSettings) request(cmd *cobra.Command, id domain.GroupID) (api.GroupSetRequest, error) {
	req := api.GroupSetRequest{Group: id, Revision: o.revision, OnTargetLoss: domain.OnTargetLoss(o.loss), Congestion: domain.Congestion(o.congestion), Failover: domain.FailoverPolicy(o.failover), Reason: o.reason, By: o.by}
	for _, t := range o.targets {
		site, mode, ok := strings.Cut(t, "=")
		if !ok || !slices.Contains([]domain.Mode{domain.ModeSync, domain.ModeAsync, domain.ModeNone}, domain.Mode(mode)) {
			return req, fmt.Errorf("--target %q: %w: write SITE=sync, SITE=async or SITE=none", t, domain.ErrInvalid)
		}
		req.Targets = append(req.Targets, domain.Target{Site: domain.SiteID(site), Mode: domain.Mode(mode)})
	}
	for _, s := range o.remove {
		req.Remove = append(req.Remove, domain.SiteID(s))
	}
	if err := o.placements(&req); err != nil {
		return req, err
	}
	if err := o.groupTransport.request(cmd, &req); err != nil {
		return req, err
	}
	changed := cmd.Flags().Changed
	if err := o.placement(changed, &req); err != nil {
		return req, err
	}
	if changed("rpo") {
		req.RPO = &o.rpo
	}
	if changed("hold-down") {
		req.HoldDown = &o.holdDown
	}
	if changed("tier") {
		req.Tier = &o.tier
	}
	if err := o.decides(changed, &req); err != nil {
		return req, err
	}
	if reflect.DeepEqual(req, api.GroupSetRequest{Group: id, Revision: o.revision, Reason: o.reason, By: o.by}) {
		return req, fmt.Errorf("group set %s: %w: nothing to change was given: see holdfast group set --help", id, domain.ErrInvalid)
	}
	sayWho(&req.By, &req.Host)
	return req, nil
}

// placement takes over which sites may serve the group. What a flag names replaces what was; what none names stays. The two flags
// of a return go together: one alone would take the other's setting away.
func (o *groupSettings) placement(changed func(string) bool, req *api.GroupSetRequest) error {
	if changed("prefer") {
		site := domain.SiteID(o.prefer)
		req.Preferred = &site
	}
	for name, to := range map[string]**[]domain.SiteID{"pin": &req.Pinned, "forbid": &req.Forbidden} {
		if changed(name) {
			sites := []domain.SiteID{}
			for _, s := range map[string][]string{"pin": o.pin, "forbid": o.forbid}[name] {
				sites = append(sites, domain.SiteID(s))
			}
			*to = &sites
		}
	}
	switch {
	case changed("return-within") && !changed("return-after"):
		return fmt.Errorf("--return-within: %w: give --return-after with it: how long the copy must have been in sync", domain.ErrInvalid)
	case !changed("return-after"):
		return nil
	}
	req.Return = &domain.Return{After: o.returnAfter}
	for _, text := range o.returnWithin {
		if text == "" {
			continue
		}
		w, err := domain.ParseWindow(text)
		if err != nil {
			return fmt.Errorf("--return-within %q: %w", text, err)
		}
		req.Return.Within = append(req.Return.Within, w)
	}
	return nil
}

// placementText is a group's placement in words; empty when there is none.
func placementText(p domain.Placement) string {
	var parts []string
	if p.Preferred != "" {
		parts = append(parts, "prefers "+string(p.Preferred))
	}
	if len(p.Pinned) > 0 {
		parts = append(parts, fmt.Sprintf("only at %v", p.Pinned))
	}
	if len(p.Forbidden) > 0 {
		parts = append(parts, fmt.Sprintf("never at %v", p.Forbidden))
	}
	if p.Return.After > 0 {
		text := fmt.Sprintf("returns by itself after %s in sync", p.Return.After)
		for _, w := range p.Return.Within {
			text += fmt.Sprintf(", within %s-%s", w.From, w.To)
			if len(w.Days) > 0 {
				text += fmt.Sprintf(" on %v", w.Days)
			}
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

func (o *groupSettings) placements(req *api.GroupSetRequest) error {
	for _, p := range o.place {
		who, where, ok := strings.Cut(p, "=")
		vm, site, at := strings.Cut(who, "@")
		parts := strings.Split(where, ",")
		if _, err := netip.ParseAddr(parts[0]); !ok || !at || len(parts) < 2 || err != nil {
			return fmt.Errorf("--place %q: %w: write VM@SITE=ADDRESS,HOST, as erp-1@c=10.3.0.11,c-h1", p, domain.ErrInvalid)
		}
		place := domain.VMPlacement{Address: parts[0]}
		for _, h := range parts[1:] {
			place.Hosts = append(place.Hosts, domain.HostID(h))
		}
		if req.Placements == nil {
			req.Placements = map[domain.VMID]map[domain.SiteID]domain.VMPlacement{}
		}
		if req.Placements[domain.VMID(vm)] == nil {
			req.Placements[domain.VMID(vm)] = map[domain.SiteID]domain.VMPlacement{}
		}
		req.Placements[domain.VMID(vm)][domain.SiteID(site)] = place
	}
	return nil
}

func groupSet(cmd *cobra.Command, r *remote, site string, id domain.GroupID, o *groupSettings) error {
	req, err := o.request(cmd, id)
	if err != nil {
		return err
	}
	_, mesh, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
	defer cancel()
	conn, err := serving(ctx, mesh, site, id)
	if err != nil {
		return err
	}
	d, err := bus.Call[api.GroupDesired](ctx, conn, api.ServiceFailover, api.VerbGroupSet, req)
	if err != nil {
		return err
	}
	if o.settled {
		ctx = cmd.Context() // a copy takes as long as it takes
	}
	st, err := awaitCopy(ctx, conn, id, func(st api.GroupStatus) bool { return adopted(st, d) && (!o.settled || asAsked(st, d)) })
	if err != nil {
		return fmt.Errorf("group %s is changed (version %d), and its primary at site %s does not go by it yet: see holdfast group show %s: %w", id, d.Version, d.Site, id, err)
	}
	if r.output == "json" {
		return printJSON(cmd.OutOrStdout(), struct {
			Desired api.GroupDesired `json:"desired"`
			Copy    api.GroupStatus  `json:"copy"`
		}{d, st})
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "group %s: version %d of its desired state; its primary at site %s goes by it\n", id, d.Version, d.Site)
	for _, t := range st.Targets {
		fmt.Fprintf(w, "target %s: %s\n", t.Site, targetText(t))
	}
	return nil
}

// serving is the connection to the site where a group is to run, which alone may change it.
func serving(ctx context.Context, mesh *bus.Mesh, site string, id domain.GroupID) (*bus.Conn, error) {
	list, err := desired(ctx, mesh, site)
	if err != nil {
		return nil, err
	}
	for _, d := range list.Groups {
		if d.Group.ID == id {
			return atSite(mesh, string(d.Site))
		}
	}
	return nil, fmt.Errorf("group %s: %w: see holdfast group list", id, domain.ErrNotFound)
}

// awaitCopy waits until the copy that serves a group is as it should be.
func awaitCopy(ctx context.Context, conn *bus.Conn, id domain.GroupID, done func(api.GroupStatus) bool) (api.GroupStatus, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("it has not said so")
	for {
		st, err := bus.Call[api.ReplicatorStatus](ctx, conn, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{Group: id})
		switch {
		case err != nil:
			last = err
		case len(st.Groups) == 1 && st.Groups[0].PolicyError != "":
			last = errors.New(st.Groups[0].PolicyError)
		case len(st.Groups) == 1 && done(st.Groups[0]):
			return st.Groups[0], nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return api.GroupStatus{}, fmt.Errorf("%w: %w", last, ctx.Err())
		}
	}
}

func adopted(st api.GroupStatus, d api.GroupDesired) bool {
	return st.Policy.Epoch > d.Epoch || st.Policy.Epoch == d.Epoch && st.Policy.Version >= d.Version
}

// asAsked reports whether every target is in sync, or follows, or was let go, as the policy says.
func asAsked(st api.GroupStatus, d api.GroupDesired) bool {
	for _, t := range st.Targets {
		if t.Mode == domain.ModeSync && !t.InSync || t.Mode != domain.ModeSync && (t.InSync || t.State != api.TargetStreaming) || t.Mode == domain.ModeNone {
			return false
		}
	}
	for _, site := range d.Group.SitesOf() {
		if mode := d.Group.ModeTo(d.Site, site); mode != domain.ModeNone && !slices.ContainsFunc(st.Targets, func(t api.TargetStatus) bool { return t.Site == site && t.Mode == mode }) {
			return false
		}
	}
	return true
}

// targetText is a target's state in words.
func targetText(t api.TargetStatus) string {
	text := targetState(t)
	if t.State != api.TargetStreaming && t.Error != "" {
		text += ": " + t.Error
	}
	return text
}

// wayText is how changes travel to a target, after its state.
func wayText(t api.TargetStatus) string {
	switch {
	case t.Way == api.WayLine:
		return ", by line"
	case t.Way == api.WayNATS && t.NoLine != "":
		return ", through NATS (no line: " + t.NoLine + ")"
	case t.Way == api.WayNATS:
		return ", through NATS"
	}
	return ""
}

func targetState(t api.TargetStatus) string {
	switch {
	case t.Mode == domain.ModeSync && t.InSync:
		return "sync, in sync"
	case t.Mode == domain.ModeSync:
		return "sync, catching up (" + t.State + ")"
	case t.Mode == domain.ModeNone && t.InSync:
		return "none, waited for until the quorum lets go of it"
	case t.Mode == domain.ModeNone:
		return "none, being let go"
	case t.InSync:
		return "async, waited for until the quorum lets go of it"
	}
	return fmt.Sprintf("async, %s, %.1f s behind", t.State, t.LagSeconds)
}
