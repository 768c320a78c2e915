package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
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
	rpo, holdDown          time.Duration
	tier                   int
	congestion             string
	loss, failover         string
	revision               uint64
	reason, by             string
	settled                bool
}

func groupSetCommand(r *remote, site *string) *cobra.Command {
	o := new(groupSettings)
	c := &cobra.Command{Use: "set GROUP", Short: "Change a group's policy while it serves", Args: exactly(1, "one GROUP"),
		Long: "Changes what is asked of a group's targets while its VMs write. What no flag names stays as it is.\n\n" +
			"A target that becomes synchronous catches up first, and counts as in sync only once the quorum has it. One that no longer is, is waited\n" +
			"for until the quorum has let go of it. With mode none, and when it is removed, nothing more is sent: its copy stays at that site as it is.",
		Example: "  holdfast group set erp --target b=sync --target c=async --rpo 5s\n" +
			"  holdfast group set erp --remove-target c --reason 'site c is given up'",
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
	f.IntVar(&o.tier, "tier", 0, "1 business critical, 2 important, 3 low")
	f.StringVar(&o.failover, "failover", "", "auto or manual")
	f.DurationVar(&o.holdDown, "hold-down", 0, "how long a disaster lasts before an automatic failover")
	f.Uint64Var(&o.revision, "revision", 0, "refuse when the group's desired state at the site that serves it is not at this revision (see group show)")
	f.StringVar(&o.reason, "reason", "", "why; kept in the audit")
	f.StringVar(&o.by, "by", "", "who; by default the user of this system")
	f.BoolVar(&o.settled, "wait", false, "wait until every target is as it was asked to be, and not only until the primary goes by the change")
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
	changed := cmd.Flags().Changed
	if changed("rpo") {
		req.RPO = &o.rpo
	}
	if changed("hold-down") {
		req.HoldDown = &o.holdDown
	}
	if changed("tier") {
		req.Tier = &o.tier
	}
	if len(req.Targets)+len(req.Remove)+len(req.Placements) == 0 && req.RPO == nil && req.HoldDown == nil && req.Tier == nil && req.OnTargetLoss == "" && req.Congestion == "" && req.Failover == "" {
		return req, fmt.Errorf("group set %s: %w: nothing to change was given: see holdfast group set --help", id, domain.ErrInvalid)
	}
	sayWho(&req.By, &req.Host)
	return req, nil
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
