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
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
)

func runCommand() *cobra.Command {
	r, site := new(remote), new(string)
	c := parent(&cobra.Command{Use: "run", Short: "Start and follow runs of recovery plans"})
	r.flags(c)
	c.PersistentFlags().StringVar(site, "site", "", "the site to ask; by default the configuration's own")
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "List the runs a site knows, newest first", Args: exactly(0, "no argument"),
			RunE: func(cmd *cobra.Command, _ []string) error { return runList(cmd, r, *site) }},
		&cobra.Command{Use: "show RUN", Short: "Show one run with its steps", Args: exactly(1, "one RUN"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return runShow(cmd, r, *site, domain.RunID(args[0]))
			}},
		runStartCommand(r),
	)
	return c
}

func runList(cmd *cobra.Command, r *remote, site string) error {
	list, err := askFailover[api.RunList](cmd, r, site, api.VerbRunList, api.Empty{})
	if err != nil {
		return err
	}
	if r.output == "json" {
		return printJSON(cmd.OutOrStdout(), list)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "RUN\tPLAN\tKIND\tSTATE\tTO\tFROM\tSTARTED\tTOOK\tBY\tREASON")
	for _, x := range list.Runs {
		took := "-"
		if !x.Ended.IsZero() {
			took = x.Ended.Sub(x.Started).Round(time.Millisecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.ID, x.Plan, x.Kind, x.State, x.Leader, x.From, x.Started.Format(time.RFC3339), took, x.By, x.Reason)
	}
	return w.Flush()
}

func runShow(cmd *cobra.Command, r *remote, site string, id domain.RunID) error {
	cfg, mesh, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	conn, err := atSite(mesh, site)
	if err != nil {
		return err
	}
	run, err := bus.Call[api.Run](cmd.Context(), conn, api.ServiceFailover, api.VerbRunShow, api.RunShowRequest{ID: id})
	if err != nil {
		return err
	}
	return printRun(cmd.OutOrStdout(), r, cfg.Tracing, run)
}

func printRun(out io.Writer, r *remote, pages config.Tracing, run api.Run) error {
	if r.output == "json" {
		return printJSON(out, run)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "run\t%s\nplan\t%s\nkind\t%s\nstate\t%s\nat\t%s\nby\t%s: %s\ntrace\t%s\n", run.ID, run.Plan, run.Kind, run.State, run.Leader, run.By, run.Reason, run.TraceID)
	if url := pages.Trace(run.TraceID); url != "" {
		fmt.Fprintf(w, "trace page\t%s\n", url)
	}
	for g, e := range run.Estimate {
		fmt.Fprintf(w, "estimated loss\t%s: %s\n", g, e.Text)
	}
	if run.Error != "" {
		fmt.Fprintf(w, "error\t%s\n", run.Error)
	}
	fmt.Fprintln(w, "\nSTEP\tSTATE\tTOOK\tATTEMPTS\tERROR")
	for _, s := range run.Steps {
		took := "-"
		if !s.Ended.IsZero() {
			took = s.Ended.Sub(s.Started).Round(time.Millisecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", s.ID, s.State, took, s.Attempts, s.Error)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return printCriticalPath(out, run)
}

// printCriticalPath tells which chain of steps decided how long the run took, and each one's share of it.
func printCriticalPath(out io.Writer, run api.Run) error {
	path := plan.CriticalPath(run)
	if path.Total <= 0 {
		return nil
	}
	from := "the run's start"
	if path.Legs[0].Phase == plan.PhaseDetect {
		from = "the first missed heartbeat"
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "\ncritical path: %s from %s\nPHASE\tTOOK\tSHARE\tSTEP\n", path.Total.Round(time.Millisecond), from)
	for _, l := range path.Legs {
		fmt.Fprintf(w, "%s\t%s\t%.0f %%\t%s\n", l.Phase, l.Took().Round(time.Millisecond), 100*l.Took().Seconds()/path.Total.Seconds(), l.Step)
	}
	return w.Flush()
}

func runStartCommand(r *remote) *cobra.Command {
	var req api.RunStartRequest
	var to, from, planID string
	var follow bool
	var checkpoints map[string]string
	var groups []string
	c := &cobra.Command{
		Use: "start", Short: "Start a run: a switchover, a failback, or a failover that a person declares", Args: exactly(0, "flags only"),
		Example: "  holdfast run start --plan main --kind switchover --from a --to b --reason 'power works on Sunday'\n" +
			"  holdfast run start --plan main --kind failover --from a --to b --accept-loss --reason 'the fire brigade says so'\n" +
			"  holdfast run start --plan main --kind switchover --from a --to b --checkpoint erp=1042 --accept-loss --reason 'back before the worm'\n" +
			"  holdfast run start --plan main --kind start --to b --group erp --checkpoint erp=998 --accept-loss --reason 'further back, where it is'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := need(cmd, "plan", "kind", "reason"); err != nil {
				return err
			}
			req.Plan, req.From = domain.PlanID(planID), domain.SiteID(from)
			for _, g := range groups {
				req.Groups = append(req.Groups, domain.GroupID(g))
			}
			for g, text := range checkpoints {
				at, err := checkpointNamed([]string{g, text})
				if err != nil {
					return err
				}
				if req.Checkpoints == nil {
					req.Checkpoints = map[domain.GroupID]domain.LSN{}
				}
				req.Checkpoints[at.Group] = at.Checkpoint
			}
			return runStart(cmd, r, to, req, follow)
		},
	}
	f := c.Flags()
	f.StringVar(&planID, "plan", "", "the plan to run")
	f.StringVar(&req.Kind, "kind", "", "switchover, failback, failover or start")
	f.StringVar(&to, "to", "", "the site that is to serve; by default the configuration's own")
	f.StringVar(&from, "from", "", "the site that serves now, or that is lost")
	f.StringSliceVar(&groups, "group", nil, "GROUP[,GROUP...]: only these groups of the plan; by default all that are concerned")
	f.StringVar(&req.Reason, "reason", "", "why; kept in the audit")
	f.StringVar(&req.By, "by", "", "who; by default the user of this system")
	f.BoolVar(&req.AcceptLoss, "accept-loss", false, "accept the estimated loss of a group that is not in sync")
	f.StringToStringVar(&checkpoints, "checkpoint", nil, "GROUP=CHECKPOINT: bring a group back to a checkpoint of the copy that is to serve; what came after is kept aside")
	f.BoolVar(&follow, "wait", true, "wait for the run's end")
	return c
}

func runStart(cmd *cobra.Command, r *remote, to string, req api.RunStartRequest, follow bool) error {
	cfg, mesh, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	conn, err := atSite(mesh, to)
	if err != nil {
		return err
	}
	req.Declared = req.Kind == api.RunFailover
	sayWho(&req.By, &req.Host)
	ctx, cancel := context.WithTimeout(cmd.Context(), max(r.timeout, 10*time.Second))
	defer cancel()
	begun, err := bus.Call[api.RunStarted](ctx, conn, api.ServiceFailover, api.VerbRunStart, req)
	if err != nil {
		return err
	}
	if begun.Awaiting != "" {
		fmt.Fprintln(cmd.ErrOrStderr(), begun.Awaiting)
	}
	run := begun.Run
	if follow {
		if run, err = awaitRun(cmd.Context(), conn, run, r.timeout); err != nil {
			return err
		}
	}
	if err := printRun(cmd.OutOrStdout(), r, cfg.Tracing, run); err != nil {
		return err
	}
	if run.State == api.StepFailed {
		return runFailed(run)
	}
	return nil
}

// awaitRun asks every half second until the run has ended; what it asks for is state, which no event may stand in for. It
// gives up when the leader has not answered for the patience given: the run goes on without anyone watching.
func awaitRun(ctx context.Context, conn *bus.Conn, run api.Run, patience time.Duration) (api.Run, error) {
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	heard := time.Now()
	for run.State != api.StepDone && run.State != api.StepFailed {
		select {
		case <-t.C:
		case <-ctx.Done():
			return run, ctx.Err()
		}
		next, err := bus.Call[api.Run](ctx, conn, api.ServiceFailover, api.VerbRunShow, api.RunShowRequest{ID: run.ID})
		switch {
		case err == nil:
			run, heard = next, time.Now()
		case time.Since(heard) > patience:
			return run, fmt.Errorf("follow run %s: site %s has not answered for %s (%w); the run goes on when it does: see holdfast run show %s --site %s: %w",
				run.ID, run.Leader, patience, err, run.ID, run.Leader, context.DeadlineExceeded)
		}
	}
	return run, nil
}

// runFailed is a failed run as an error, with the sentinel of its code for the exit code.
func runFailed(run api.Run) error {
	if cause := domain.FromCode(run.Code); cause != nil {
		return fmt.Errorf("run %s failed: %s: %w", run.ID, run.Error, cause)
	}
	return fmt.Errorf("run %s failed: %s", run.ID, run.Error)
}
