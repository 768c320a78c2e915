package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func groupCommand() *cobra.Command {
	r, site := new(remote), new(string)
	c := parent(&cobra.Command{Use: "group", Short: "Look at protection groups, and change them"})
	r.flags(c)
	c.PersistentFlags().StringVar(site, "site", "", "the site to ask; by default the configuration's own")
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "List the groups", Args: exactly(0, "no argument"),
			RunE: func(cmd *cobra.Command, _ []string) error { return groupList(cmd, r, *site) }},
		&cobra.Command{Use: "show GROUP", Short: "Show one group: what is desired, and its copy at each site", Args: exactly(1, "one GROUP"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return groupShow(cmd, r, *site, domain.GroupID(args[0]))
			}},
		groupSeedCommand(r),
		groupSetCommand(r, site),
		groupVolumeCommand(r, site),
	)
	return c
}

func desired(ctx context.Context, mesh *bus.Mesh, site string) (api.GroupList, error) {
	conn, err := atSite(mesh, site)
	if err != nil {
		return api.GroupList{}, err
	}
	return bus.Call[api.GroupList](ctx, conn, api.ServiceFailover, api.VerbGroupList, api.Empty{})
}

func groupList(cmd *cobra.Command, r *remote, site string) error {
	list, err := askFailover[api.GroupList](cmd, r, site, api.VerbGroupList, api.Empty{})
	if err != nil {
		return err
	}
	if r.output == "json" {
		return printJSON(cmd.OutOrStdout(), list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tTIER\tHOME\tRUNS AT\tEPOCH\tTARGETS\tFAILOVER\tVOLUMES\tVMS")
	for _, d := range list.Groups {
		targets := ""
		for _, t := range d.Group.Targets {
			targets += fmt.Sprintf("%s(%s) ", t.Site, t.Mode)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%d\t%d\n", d.Group.ID, d.Group.Tier, d.Group.Home, d.Site, d.Epoch, targets, d.Group.Failover, len(d.Group.Served()), len(d.Group.VMs))
	}
	return w.Flush()
}

// groupView is everything about one group.
type groupView struct {
	Desired api.GroupDesired                  `json:"desired"`
	Copies  map[domain.SiteID]api.GroupStatus `json:"copies"`
	// Estimate is what each target would lose if the group were promoted there now.
	Estimate map[domain.SiteID]api.LossEstimate `json:"estimate"`
	Problems []string                           `json:"problems,omitempty"`
}

// lookAtGroup asks for what is desired of a group, and each of its sites for its copy.
func lookAtGroup(cmd *cobra.Command, r *remote, site string, id domain.GroupID) (view groupView, err error) {
	_, mesh, err := r.open(cmd.Context())
	if err != nil {
		return view, err
	}
	defer mesh.Close()
	ctx := cmd.Context()
	list, err := desired(ctx, mesh, site)
	if err != nil {
		return view, err
	}
	view = groupView{Copies: map[domain.SiteID]api.GroupStatus{}, Estimate: map[domain.SiteID]api.LossEstimate{}}
	for _, d := range list.Groups {
		if d.Group.ID == id {
			view.Desired = d
		}
	}
	if view.Desired.Group.ID == "" {
		return view, fmt.Errorf("group %s: %w: see holdfast group list", id, domain.ErrNotFound)
	}
	for _, s := range view.Desired.Group.SitesOf() {
		if err := view.ask(ctx, mesh, s, id); err != nil {
			view.Problems = append(view.Problems, fmt.Sprintf("site %s: %v", s, err))
		}
	}
	return view, nil
}

func groupShow(cmd *cobra.Command, r *remote, site string, id domain.GroupID) error {
	view, err := lookAtGroup(cmd, r, site, id)
	if err != nil {
		return err
	}
	if r.output == "json" {
		err = printJSON(cmd.OutOrStdout(), view)
	} else {
		err = view.print(cmd)
	}
	if err == nil && len(view.Problems) > 0 {
		err = fmt.Errorf("group %s is shown in %w: %d of its sites did not answer: see the problems above", id, errPartial, len(view.Problems))
	}
	return err
}

func (v *groupView) ask(ctx context.Context, mesh *bus.Mesh, s domain.SiteID, id domain.GroupID) error {
	conn, err := mesh.Conn(s)
	if err != nil {
		return err
	}
	st, err := bus.Call[api.ReplicatorStatus](ctx, conn, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{Group: id})
	if err != nil {
		return err
	}
	for _, g := range st.Groups {
		v.Copies[s] = g
		if g.Role != domain.RoleTarget {
			continue
		}
		if v.Estimate[s], err = bus.Call[api.LossEstimate](ctx, conn, api.ServiceReplicator, api.VerbEstimate, api.EstimateRequest{Group: id}); err != nil {
			return err
		}
	}
	return nil
}

func (v *groupView) print(cmd *cobra.Command) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	g := v.Desired.Group
	fmt.Fprintf(w, "group\t%s (tier %d)\nhome\t%s\nruns at\t%s since epoch %s\nfailover\t%s, hold-down %s\n", g.ID, g.Tier, g.Home, v.Desired.Site, v.Desired.Epoch, policyText(g), g.HoldDown)
	fmt.Fprintf(w, "policy\tversion %d, revision %d, on target loss %s, RPO target %s\n", v.Desired.Version, v.Desired.Revision, g.OnTargetLoss, g.RPO)
	if text := placementText(g.Placement); text != "" {
		fmt.Fprintf(w, "placement\t%s\n", text)
	}
	fmt.Fprintf(w, "durability\t%s\n", durabilityText(g, v.Copies[v.Desired.Site]))
	for _, t := range g.Targets {
		fmt.Fprintf(w, "target\t%s, %s%s\n", t.Site, t.Mode, t.Transport)
	}
	for _, vol := range g.Volumes {
		if vol.Removed {
			fmt.Fprintf(w, "volume\t%s, removed, kept at each site\n", vol.ID)
			continue
		}
		fmt.Fprintf(w, "volume\t%s, %d bytes\n", vol.ID, vol.SizeBytes)
	}
	for _, vm := range g.VMs {
		fmt.Fprintf(w, "vm\t%s, volumes %v, names %v\n", vm.ID, vm.Volumes, vm.DNS)
	}
	for _, s := range g.SitesOf() {
		c, ok := v.Copies[s]
		if !ok {
			continue
		}
		fmt.Fprintf(w, "copy at %s\t%s, epoch %s, head LSN %d, promotable %v\n", s, c.Role, c.Epoch, c.HeadLSN, c.Consistent)
		for _, t := range c.Targets {
			fmt.Fprintf(w, "\tto %s: %s\n", t.Site, targetText(t)+wayText(t))
		}
		if c.Error != "" {
			fmt.Fprintf(w, "\tstopped: %s\n", c.Error)
		}
		printHeld(w, c)
		if c.DamageFound > 0 {
			fmt.Fprintf(w, "\tdamage found\t%d times, nothing of it was used; last: %s\n", c.DamageFound, c.DamageLast)
		}
		if c.PolicyError != "" {
			fmt.Fprintf(w, "\tchanged definition not carried out: %s\n", c.PolicyError)
		}
		for _, d := range c.Disks {
			fmt.Fprintf(w, "\t%s\n", d.URL)
		}
		printProgress(w, c)
		for _, t := range c.Targets {
			fmt.Fprintf(w, "loss if %s died now\tat %s: %s (%s, %s)\n", s, t.Site, t.Loss.Text, t.Mode, t.State)
		}
		if e, ok := v.Estimate[s]; ok {
			fmt.Fprintf(w, "loss if %s took over now\t%s\n", s, e.Text)
		}
		for _, q := range c.Quarantined {
			fmt.Fprintf(w, "kept aside at %s\t%d writes, %d bytes of epoch %s, %s\n", s, q.Writes, q.Bytes, q.Epoch, q.Path)
		}
	}
	for _, p := range v.Problems {
		fmt.Fprintf(w, "problem\t%s\n", p)
	}
	return w.Flush()
}

// durabilityText is the class that is in force, and the other one that is wanted.
func durabilityText(g domain.Group, c api.GroupStatus) string {
	if c.Durability == "" || c.Durability == g.Durability {
		return string(g.Durability)
	}
	return fmt.Sprintf("%s; %s once another site serves the group", c.Durability, g.Durability)
}

// printHeld tells what writing waits for.
func printHeld(w io.Writer, c api.GroupStatus) {
	if c.GoingBackTo != 0 {
		fmt.Fprintf(w, "\tgoes back to checkpoint %d\n", c.GoingBackTo)
	}
	for _, h := range c.Held {
		fmt.Fprintf(w, "\twaits for the %s since %s: %s\n", h.Reason, h.Since.Local().Format(time.TimeOnly), h.Detail)
	}
}
