package main

import (
	"context"
	"fmt"
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
		if in.Live, err = askQuorum(ctx, cfg); err != nil {
			return err
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

// askQuorum asks the quorum service of every site that can be reached, all at once; nil when none answers.
func askQuorum(ctx context.Context, cfg config.Config) (*planner.Live, error) {
	mesh, err := dial(cfg)
	if err != nil {
		return nil, err
	}
	defer mesh.Close()
	answers := make([]*api.QuorumStatus, len(cfg.Sites))
	var wg sync.WaitGroup
	for i, s := range cfg.Sites {
		conn, err := mesh.Conn(s.ID)
		if err != nil {
			return nil, err
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
		})
	}
	wg.Wait()
	var all []api.QuorumStatus
	for _, a := range answers {
		if a != nil {
			all = append(all, *a)
		}
	}
	return planner.LiveOf(all), nil
}
