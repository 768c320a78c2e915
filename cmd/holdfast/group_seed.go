package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/group"
)

func groupSeedCommand(r *remote) *cobra.Command {
	var volumes []string
	c := &cobra.Command{
		Use: "seed GROUP", Short: "Bring carried images of a group's volumes to this site, before its first copy", Args: exactly(1, "one GROUP"),
		Long: "Copy carried images into the group's folder of this site, a target, on this machine and while its replicator does not run. When it\n" +
			"starts, the first resync compares them with the primary by hashes and sends only what differs. An image may be a copy of the primary's\n" +
			"volume file made while it was written to. Until that resync is done the copy is not promoted. It is refused (exit 3) where the copy has\n" +
			"changes already.",
		Example: "  holdfast group seed erp --volume data=/mnt/carried/data.img --config site-b.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "config"); err != nil {
				return err
			}
			return groupSeed(cmd, r.file, domain.GroupID(args[0]), volumes)
		},
	}
	c.Flags().StringArrayVar(&volumes, "volume", nil, "VOLUME=FILE, for each volume")
	return c
}

func groupSeed(cmd *cobra.Command, file string, id domain.GroupID, volumes []string) error {
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(cfg.Groups, func(g config.Group) bool { return g.ID == id })
	switch {
	case i < 0:
		return fmt.Errorf("group %s is not in %s: %w", id, file, domain.ErrNotFound)
	case len(volumes) == 0:
		return fmt.Errorf("%s needs --volume VOLUME=FILE: %w", cmd.CommandPath(), domain.ErrInvalid)
	}
	def := cfg.Groups[i].Domain()
	if def.Home == cfg.Site || !slices.Contains(def.SitesOf(), cfg.Site) {
		return fmt.Errorf("site %s is no target of group %s: seed it where the copy is to be: %w", cfg.Site, id, domain.ErrInvalid)
	}
	for _, v := range volumes {
		name, image, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("--volume %q: %w: write VOLUME=FILE", v, domain.ErrInvalid)
		}
		if err := group.PlaceSeed(cmd.Context(), filepath.Join(cfg.DataDir, "replicator", string(id)), def, domain.VolumeID(name), image); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "volume %s: %s is its seed; start the replicator of site %s\n", name, image, cfg.Site)
	}
	return nil
}
