package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

// quorumCheckCommand stands below the service's own command, holdfast quorum.
func quorumCheckCommand() *cobra.Command {
	var r remote
	var offline bool
	c := &cobra.Command{
		Use: "check", Short: "Say who keeps quorum after each loss and partition, and warn as the field advises", Args: exactly(0, "no argument"),
		Long: "Say who keeps quorum after the loss of each site and in each partition of the sites, and warn as the field advises: each\n" +
			"warning with its consequence and its mend (docs/operations/quorum.md). Sites that run are asked for what only they know; what\n" +
			"is not known is told as such. Changes nothing. With a warning that is an error the exit code is 3.",
		Example: "  holdfast quorum check --config site-a.yaml --offline",
		RunE:    func(cmd *cobra.Command, _ []string) error { return quorumCheck(cmd, &r, offline) },
	}
	r.flags(c)
	c.Flags().BoolVar(&offline, "offline", false, "ask no site; the configuration alone counts")
	return c
}

func quorumCheck(cmd *cobra.Command, r *remote, offline bool) error {
	cfg, err := r.load()
	if err != nil {
		return err
	}
	in := site.QuorumPlan(cfg)
	if !offline {
		ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
		defer cancel()
		live, groups, err := askQuorum(ctx, cfg)
		if err != nil {
			return err
		}
		in.Live = live
		if len(groups) > 0 {
			in.Groups = groups // as they are now, and not as they were first configured
		}
	}
	report, err := planner.Check(in)
	if err != nil {
		return err
	}
	if r.output == "json" {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		_, err = fmt.Fprint(cmd.OutOrStdout(), report.Text())
	}
	if err == nil && report.Worst() == planner.Error {
		err = fmt.Errorf("who votes is %w: see the errors above", domain.ErrRefused)
	}
	return err
}

// askQuorum asks every site that can be reached, all at once, for its votes and for what is desired of the groups; nil where none
// answers.
func askQuorum(ctx context.Context, cfg config.Config) (*planner.Live, []domain.Group, error) {
	mesh, err := dial(cfg)
	if err != nil {
		return nil, nil, err
	}
	defer mesh.Close()
	answers, lists := make([]*api.QuorumStatus, len(cfg.Sites)), make([]api.GroupList, len(cfg.Sites))
	var wg sync.WaitGroup
	for i, s := range cfg.Sites {
		conn, err := mesh.Conn(s.ID)
		if err != nil {
			return nil, nil, err
		}
		wg.Go(func() {
			wctx, cancel := context.WithTimeout(ctx, connectPatience)
			defer cancel()
			if conn.AwaitConnected(wctx) != nil {
				return
			}
			if st, err := bus.Call[api.QuorumStatus](ctx, conn, api.ServiceQuorum, api.VerbStatus, api.Empty{}); err == nil {
				answers[i] = &st
			}
			if s.Role == domain.SiteData {
				lists[i], _ = bus.Call[api.GroupList](ctx, conn, api.ServiceFailover, api.VerbGroupList, api.Empty{}) // without it the configured groups count
			}
		})
	}
	wg.Wait()
	var all []api.QuorumStatus
	for _, a := range answers {
		if a != nil {
			all = append(all, *a)
		}
	}
	return planner.LiveOf(all), desiredGroups(lists), nil
}

// desiredGroups are the groups as the newest of the lists defines each; nil when there is none.
func desiredGroups(lists []api.GroupList) []domain.Group {
	newest := map[domain.GroupID]api.GroupDesired{}
	for _, l := range lists {
		for _, g := range l.Groups {
			have, ok := newest[g.Group.ID]
			if !ok || g.Epoch > have.Epoch || g.Epoch == have.Epoch && g.Version > have.Version {
				newest[g.Group.ID] = g
			}
		}
	}
	var out []domain.Group
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		out = append(out, newest[id].Group)
	}
	return out
}
