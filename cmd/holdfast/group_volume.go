package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func groupVolumeCommand(r *remote, site *string) *cobra.Command {
	c := parent(&cobra.Command{Use: "volume", Short: "Add volumes to a group while it serves, and remove them"})
	c.AddCommand(groupVolumeAddCommand(r, site), groupVolumeRemoveCommand(r, site),
		groupVolumeDiscardCommand(r, site),
		&cobra.Command{Use: "list GROUP", Short: "List a group's volumes at each of its sites, removed ones too", Args: exactly(1, "one GROUP"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return groupVolumeList(cmd, r, *site, domain.GroupID(args[0]))
			}})
	return c
}

func groupVolumeAddCommand(r *remote, site *string) *cobra.Command {
	var req api.GroupSetRequest
	var size string
	c := &cobra.Command{Use: "add GROUP VOLUME", Short: "Add an empty volume to a group while it serves", Args: exactly(2, "GROUP and VOLUME"),
		Long: "Adds an empty volume. The primary puts it into the group's order of writes and serves it; every target makes it when it comes to that\n" +
			"place in the order, so nothing has to be copied. Its name is never given to another volume of the group. VMs that run are not changed.",
		Example: "  holdfast group volume add erp archive --size 10GiB",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "size"); err != nil {
				return err
			}
			n, err := config.ParseSize(size)
			if err != nil {
				return fmt.Errorf("--size: %w", err)
			}
			id := domain.VolumeID(args[1])
			req.Group, req.AddVolumes = domain.GroupID(args[0]), []domain.Volume{{ID: id, SizeBytes: int64(n)}}
			return groupVolumeChange(cmd, r, *site, req, fmt.Sprintf("volume %s is served", id), func(st api.GroupStatus) bool {
				return slices.ContainsFunc(st.Disks, func(d api.Disk) bool { return d.Volume == id })
			})
		},
	}
	c.Flags().StringVar(&size, "size", "", "size with its unit, as in 10GiB; a multiple of 4KiB")
	c.Flags().StringVar(&req.Reason, "why", "", "why; kept in the audit")
	volumeChangeFlags(c, &req)
	return c
}

func groupVolumeRemoveCommand(r *remote, site *string) *cobra.Command {
	var req api.GroupSetRequest
	var yes bool
	c := &cobra.Command{Use: "remove GROUP VOLUME", Short: "Serve a volume of a group no more; what it holds is kept at each site", Args: exactly(2, "GROUP and VOLUME"),
		Long: "Takes a volume away from its initiators and out of the group. What it holds stays in its file at each site, and checkpoints from before show it.\n" +
			"It is refused (exit 3) without --yes, and while a VM of the group uses the volume.",
		Example: "  holdfast group volume remove erp archive --yes --why 'moved to the archive group'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "why"); err != nil {
				return err
			}
			if !yes {
				return fmt.Errorf("group volume remove: %w: initiators that use it lose it at once: say --yes", domain.ErrRefused)
			}
			id := domain.VolumeID(args[1])
			req.Group, req.RemoveVolumes = domain.GroupID(args[0]), []domain.VolumeID{id}
			return groupVolumeChange(cmd, r, *site, req, fmt.Sprintf("volume %s is served no more; what it holds is kept at each site", id), func(st api.GroupStatus) bool {
				return slices.ContainsFunc(st.Volumes, func(v api.VolumeSlot) bool { return v.ID == id && v.Gone != 0 })
			})
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "yes, initiators may lose the volume")
	c.Flags().StringVar(&req.Reason, "why", "", "why; kept in the audit")
	volumeChangeFlags(c, &req)
	return c
}

func groupVolumeDiscardCommand(r *remote, site *string) *cobra.Command {
	var req api.VolumeDiscard
	c := &cobra.Command{Use: "discard GROUP VOLUME --site SITE", Short: "Delete what a removed volume held at one site, for good", Args: exactly(2, "GROUP and VOLUME"),
		Long: "Deletes what a removed volume held at one site, for good; kept in the audit. It is refused (exit 3) without --yes, for a volume that is in the\n" +
			"group, and while a checkpoint at that site still shows it.",
		Example: "  holdfast group volume discard erp archive --site b --yes --why 'nobody needs it any more'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "site", "why"); err != nil {
				return err
			}
			req.Group, req.Volume = domain.GroupID(args[0]), domain.VolumeID(args[1])
			return groupVolumeDiscard(cmd, r, *site, req)
		},
	}
	c.Flags().BoolVar(&req.Yes, "yes", false, "yes, what the volume held may be lost")
	c.Flags().StringVar(&req.Why, "why", "", "why; kept in the audit")
	c.Flags().StringVar(&req.By, "by", "", "who; by default the user of this system")
	return c
}

func groupVolumeDiscard(cmd *cobra.Command, r *remote, site string, req api.VolumeDiscard) error {
	sayWho(&req.By, &req.Host)
	_, mesh, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	conn, err := atSite(mesh, site)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
	defer cancel()
	v, err := bus.Call[api.VolumeSlot](ctx, conn, api.ServiceReplicator, api.VerbVolumeDiscard, req)
	if err != nil {
		return err
	}
	if r.output == "json" {
		return printJSON(cmd.OutOrStdout(), v)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "discarded what volume %s of group %s held at site %s\n", v.ID, req.Group, site)
	return nil
}

func volumeChangeFlags(c *cobra.Command, req *api.GroupSetRequest) {
	c.Flags().Uint64Var(&req.Revision, "revision", 0, "refuse when the group's desired state at the site that serves it is not at this revision (see group show)")
	c.Flags().StringVar(&req.By, "by", "", "who; by default the user of this system")
}

// groupVolumeChange asks for a change and waits until the group's primary has carried it out.
func groupVolumeChange(cmd *cobra.Command, r *remote, site string, req api.GroupSetRequest, text string, done func(api.GroupStatus) bool) error {
	sayWho(&req.By, &req.Host)
	_, mesh, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
	defer cancel()
	conn, err := serving(ctx, mesh, site, req.Group)
	if err != nil {
		return err
	}
	d, err := bus.Call[api.GroupDesired](ctx, conn, api.ServiceFailover, api.VerbGroupSet, req)
	if err != nil {
		return err
	}
	st, err := awaitCopy(ctx, conn, req.Group, func(st api.GroupStatus) bool { return adopted(st, d) && done(st) })
	if err != nil {
		return fmt.Errorf("group %s is changed (version %d), and its primary at site %s has not carried it out yet: see holdfast group show %s: %w", req.Group, d.Version, d.Site, req.Group, err)
	}
	if r.output == "json" {
		return printJSON(cmd.OutOrStdout(), struct {
			Desired api.GroupDesired `json:"desired"`
			Copy    api.GroupStatus  `json:"copy"`
		}{d, st})
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "group %s: version %d of its desired state; %s\n", req.Group, d.Version, text)
	for _, v := range req.AddVolumes {
		for _, disk := range st.Disks {
			if disk.Volume == v.ID {
				fmt.Fprintln(w, disk.URL)
			}
		}
	}
	return nil
}

func groupVolumeList(cmd *cobra.Command, r *remote, site string, id domain.GroupID) error {
	view, err := lookAtGroup(cmd, r, site, id)
	if err != nil {
		return err
	}
	tables := map[domain.SiteID][]api.VolumeSlot{}
	for s, c := range view.Copies {
		tables[s] = c.Volumes
	}
	if r.output == "json" {
		err = printJSON(cmd.OutOrStdout(), struct {
			Group    domain.GroupID                     `json:"group"`
			Sites    map[domain.SiteID][]api.VolumeSlot `json:"sites"`
			Problems []string                           `json:"problems,omitempty"`
		}{id, tables, view.Problems})
	} else {
		err = printVolumeTables(cmd, tables, view.Problems)
	}
	if err == nil && len(view.Problems) > 0 {
		err = fmt.Errorf("the list is %w: %d of the sites did not answer: see the problems above", errPartial, len(view.Problems))
	}
	return err
}

func printVolumeTables(cmd *cobra.Command, tables map[domain.SiteID][]api.VolumeSlot, problems []string) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "VOLUME\tSITE\tINDEX\tBYTES\tSINCE LSN\tSTATE")
	for _, s := range slices.Sorted(maps.Keys(tables)) {
		for i, v := range tables[s] {
			state := "in the group"
			switch {
			case v.Emptied:
				state = fmt.Sprintf("removed at LSN %d, discarded here", v.Gone)
			case v.Gone != 0:
				state = fmt.Sprintf("removed at LSN %d, kept", v.Gone)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\n", v.ID, s, i, v.SizeBytes, v.Born, state)
		}
	}
	for _, p := range problems {
		fmt.Fprintf(w, "problem\t%s\n", p)
	}
	return w.Flush()
}
