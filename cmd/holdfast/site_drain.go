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

func siteDrainCommand() *cobra.Command {
	r, req, follow := new(remote), new(api.DrainRequest), true
	c := &cobra.Command{
		Use: "drain SITE", Short: "Move every group away from a site for maintenance, and let it take none", Args: exactly(1, "one SITE"),
		Long: "Plan a move of each group that a site serves, show the plan, and carry it out: one run after another, in plan order, each group to the\n" +
			"first of its sites that can take it without loss. From the first moment on the site takes no groups, until holdfast site undrain.\n" +
			"Groups that cannot move (pinned, no copy in sync, no host) are listed with the reason and stay; drain again once that is mended.\n" +
			"The site's failover service does it: the command may be stopped, and given again to follow. Exit 4 when groups stay.",
		Example: "  holdfast site drain a --dry-run --why 'new power supplies'\n  holdfast site drain a --why 'new power supplies'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Reason == "" {
				return fmt.Errorf("site drain %s: %w: say why with --why: it is kept in the audit", args[0], domain.ErrInvalid)
			}
			return siteDrain(cmd, r, domain.SiteID(args[0]), *req, follow)
		},
	}
	r.flags(c)
	f := c.Flags()
	f.StringVar(&req.Reason, "why", "", "why; kept in the audit")
	f.StringVar(&req.By, "by", "", "who; by default the user of this system")
	f.BoolVar(&req.DryRun, "dry-run", false, "only show what would be moved")
	f.BoolVar(&follow, "wait", true, "wait until everything that can move has")
	return c
}

func siteUndrainCommand() *cobra.Command {
	r, req := new(remote), new(api.UndrainRequest)
	c := &cobra.Command{
		Use: "undrain SITE", Short: "Let a drained site take groups again", Args: exactly(1, "one SITE"),
		Long:    "Let a drained site take groups again. Groups that moved stay where they are: move them with holdfast run start. Moves that were not begun are not.",
		Example: "  holdfast site undrain a --why 'done'",
		RunE: func(cmd *cobra.Command, args []string) error {
			sayWho(&req.By, &req.Host)
			_, mesh, err := r.open(cmd.Context())
			if err != nil {
				return err
			}
			defer mesh.Close()
			d, err := callSite[api.SiteDesired](cmd.Context(), r, mesh, args[0], api.VerbUndrain, *req)
			if err != nil {
				return err
			}
			if r.output == "json" {
				return printJSON(cmd.OutOrStdout(), d)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "site %s takes groups\n", args[0])
			return err
		},
	}
	r.flags(c)
	c.Flags().StringVar(&req.Reason, "why", "", "why; kept in the audit")
	c.Flags().StringVar(&req.By, "by", "", "who; by default the user of this system")
	return c
}

// callSite asks a site's failover service, within the patience of the command and at least as long as it may ask others.
func callSite[Resp, Req any](ctx context.Context, r *remote, mesh *bus.Mesh, site, verb string, req Req) (Resp, error) {
	var none Resp
	conn, err := atSite(mesh, site)
	if err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, max(r.timeout, 10*time.Second))
	defer cancel()
	return bus.Call[Resp](ctx, conn, api.ServiceFailover, verb, req)
}

func siteDrain(cmd *cobra.Command, r *remote, id domain.SiteID, req api.DrainRequest, follow bool) error {
	sayWho(&req.By, &req.Host)
	_, mesh, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	d, err := callSite[api.Drain](cmd.Context(), r, mesh, string(id), api.VerbDrain, req)
	if err != nil {
		return err
	}
	text := r.output != "json"
	if text {
		printDrain(cmd.OutOrStdout(), id, d)
	}
	if follow && d.State == api.DrainDraining {
		if d, err = followDrain(cmd, r, mesh, id, d, text); err != nil {
			return err
		}
	}
	if !text {
		err = printJSON(cmd.OutOrStdout(), d)
	}
	if err == nil && len(d.Stays) > 0 {
		err = fmt.Errorf("site %s is drained in %w: %d groups stay there: see the reasons above", id, errPartial, len(d.Stays))
	}
	return err
}

// followDrain asks every half second how far a drain is, and tells each run whose state changes, until the drain has ended. It gives up
// when the site has not answered for the patience of the command: the drain goes on without anyone watching.
func followDrain(cmd *cobra.Command, r *remote, mesh *bus.Mesh, id domain.SiteID, d api.Drain, text bool) (api.Drain, error) {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	heard, told := time.Now(), d
	for {
		select {
		case <-t.C:
		case <-cmd.Context().Done():
			return d, cmd.Context().Err()
		}
		st, err := callSite[api.FailoverStatus](cmd.Context(), r, mesh, string(id), api.VerbStatus, api.Empty{})
		switch {
		case err != nil && time.Since(heard) > r.timeout:
			return d, fmt.Errorf("follow the drain of site %s: it has not answered for %s (%w); the drain goes on when it does: give the command again: %w", id, r.timeout, err, context.DeadlineExceeded)
		case err != nil:
			continue
		case st.Drain == nil:
			return d, fmt.Errorf("site %s: %w: it was undrained meanwhile", id, domain.ErrConflict)
		}
		heard, d = time.Now(), *st.Drain
		if text {
			tellChanges(cmd.OutOrStdout(), told, d)
		}
		if told = d; d.State == api.DrainDrained {
			return d, nil
		}
	}
}

func tellChanges(w io.Writer, before, now api.Drain) {
	for i, run := range now.Runs {
		if i < len(before.Runs) && before.Runs[i].ID == run.ID && before.Runs[i].State == run.State {
			continue
		}
		fmt.Fprintf(w, "run %s: %v to site %s: %s", run.ID, run.Groups, run.To, run.State)
		if run.Error != "" {
			fmt.Fprintf(w, ": %s", run.Error)
		}
		fmt.Fprintln(w)
	}
	if now.State == api.DrainDrained && before.State != now.State {
		fmt.Fprintf(w, "drained after %s\n", now.Ended.Sub(now.Began).Round(time.Millisecond))
		for _, s := range now.Stays {
			fmt.Fprintf(w, "group %s stays: %s\n", s.Group, s.Why)
		}
	}
}

// printDrain tells a site's drain as it stands.
func printDrain(out io.Writer, id domain.SiteID, d api.Drain) {
	done := 0
	for _, run := range d.Runs {
		if run.State == api.StepDone {
			done++
		}
	}
	fmt.Fprintf(out, "site %s: %s (%s), by %s: %d of %d runs done, %d groups stay\n", id, d.State, d.Reason, whoOf(d), done, len(d.Runs), len(d.Stays))
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for i, run := range d.Runs {
		fmt.Fprintf(w, "  %d.\tplan %s\tto %s\t%v\t%s\t%s\n", i+1, run.Plan, run.To, run.Groups, run.State, run.Error)
	}
	for _, s := range d.Stays {
		fmt.Fprintf(w, "  stays\tgroup %s\t%s\n", s.Group, s.Why)
	}
	_ = w.Flush() // what cannot be written here cannot be written after it either, and that is told
}

func whoOf(d api.Drain) string {
	if d.ClaimedBy != "" {
		return d.ClaimedBy
	}
	return d.By
}
