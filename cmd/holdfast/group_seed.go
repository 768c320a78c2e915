package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

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
			"changes already. Where this site's file does not name it as a target of the group, because it became one later, any site that runs is\n" +
			"asked for the group.",
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
	if len(volumes) == 0 {
		return fmt.Errorf("%s needs --volume VOLUME=FILE: %w", cmd.CommandPath(), domain.ErrInvalid)
	}
	def, err := seeded(cmd.Context(), cfg, file, id)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		name, image, ok := strings.Cut(v, "=")
		if !ok {
			return fmt.Errorf("--volume %q: %w: write VOLUME=FILE", v, domain.ErrInvalid)
		}
		p := &seedProgress{w: cmd.ErrOrStderr(), volume: name, now: time.Now, began: time.Now(), told: time.Now()}
		if err := group.PlaceSeed(cmd.Context(), filepath.Join(cfg.DataDir, "replicator", string(id)), def, domain.VolumeID(name), image, p.tell); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "volume %s: %s is its seed; start the replicator of site %s\n", name, image, cfg.Site)
	}
	return nil
}

// seeded is the group as a copy at this site has it: by the file, and where that does not name the site as a target, as the sites that
// run have changed it meanwhile.
func seeded(ctx context.Context, cfg config.Config, file string, id domain.GroupID) (domain.Group, error) {
	target := func(g domain.Group) bool {
		return g.ID == id && g.Home != cfg.Site && slices.Contains(g.SitesOf(), cfg.Site)
	}
	no := fmt.Errorf("site %s is no target of group %s: seed it where the copy is to be, or make the site a target first (holdfast group set %s --target %s=async): %w", cfg.Site, id, id, cfg.Site, domain.ErrInvalid)
	named := false
	for _, g := range cfg.Groups {
		switch {
		case g.ID == id && g.Home == cfg.Site:
			return domain.Group{}, no
		case target(g.Domain()):
			return g.Domain(), nil
		}
		named = named || g.ID == id
	}
	_, now, err := askQuorum(ctx, cfg)
	if err != nil {
		return domain.Group{}, err
	}
	if i := slices.IndexFunc(now, target); i >= 0 {
		return now[i], nil
	}
	known := slices.ContainsFunc(now, func(g domain.Group) bool { return g.ID == id })
	switch {
	case len(now) == 0:
		return domain.Group{}, fmt.Errorf("site %s is no target of group %s in %s, and no site that could say more is running: %w", cfg.Site, id, file, domain.ErrUnavailable)
	case named || known:
		return domain.Group{}, no
	}
	return domain.Group{}, fmt.Errorf("group %s is not in %s, and no site knows it: %w", id, file, domain.ErrNotFound)
}

// seedProgress tells on a stream how far a seed is.
type seedProgress struct {
	w           io.Writer
	volume      string
	now         func() time.Time
	began, told time.Time
}

// seedToldEvery is the time between two lines of how far a seed is.
const seedToldEvery = 5 * time.Second

func (p *seedProgress) tell(done, size int64) {
	at := p.now()
	if at.Sub(p.told) < seedToldEvery {
		return
	}
	p.told = at
	rate := float64(done) / at.Sub(p.began).Seconds()
	fmt.Fprintf(p.w, "volume %s: %s of %s, %s\n", p.volume, config.Size(done), config.Size(size), rateText(rate, float64(size-done)/rate))
}
