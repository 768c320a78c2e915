package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// watching is what every command on health has.
type watching struct {
	remote
	site string
}

// healthCommands are what the command of the service has besides running it.
func healthCommands() []*cobra.Command {
	h := new(watching)
	all := []*cobra.Command{
		{Use: "show", Short: "Show what each site's observer concludes, its confidence in itself, and the suspicion of each site", Args: exactly(0, "no argument"),
			RunE: func(cmd *cobra.Command, _ []string) error { return h.show(cmd) }},
		{Use: "evidence [ID]", Short: "List the documents of evidence of a site, or show one: who saw what, when, with which confidence", Args: atMost(1, "at most one ID"),
			RunE: func(cmd *cobra.Command, args []string) error { return h.evidence(cmd, strings.Join(args, "")) }},
		{Use: "probe", Short: "Carry out each probe of the file once, from this machine, and say how it went", Args: exactly(0, "no argument"),
			Long: "Carry out each probe of the file (health.probes) once, from this machine, and say how it went. No service is asked or touched: it shows\n" +
				"whether a new probe works before the site relies on it. The exit code is 1 where one fails.",
			RunE: func(cmd *cobra.Command, _ []string) error { return h.probe(cmd) }},
		maintenanceCommand(h),
	}
	for _, c := range all {
		h.flags(c)
		c.PersistentFlags().StringVar(&h.site, "site", "", "the site whose health service is asked; by default the file's own, for show every one")
	}
	return all
}

func maintenanceCommand(h *watching) *cobra.Command {
	c := parent(&cobra.Command{Use: "maintenance", Short: "Announce, list and end maintenance windows: what is under maintenance raises no incident, and a site no disaster"})
	var r api.MaintenanceChange
	add := &cobra.Command{Use: "add PART", Short: "Announce maintenance of a site, a link or a part of a site, from now; kept in the audit", Args: exactly(1, "one PART, as site:b or host:a/a-h1"),
		Long: "Announce maintenance of PART from now: site:SITE, link:SITE-SITE, or KIND:SITE/NAME with rack, host, service, replicator, storage, port or vm.\n" +
			"It ends by itself. Meanwhile no group is moved by itself for the loss of a site under maintenance; a person still can (holdfast run start).",
		Example: "  holdfast health maintenance add host:a/a-h1 --for 1h --why 'new memory' --config site-a.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "for", "why"); err != nil {
				return err
			}
			var err error
			if r.About, err = api.ParsePart(args[0]); err != nil {
				return err
			}
			return h.maintain(cmd, r)
		}}
	add.Flags().DurationVar(&r.For, "for", 0, "for how long, as 1h30m; a week at most")
	end := &cobra.Command{Use: "end ID", Short: "End a window before its time; kept in the audit", Args: exactly(1, "one ID (see holdfast health maintenance list)"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "why"); err != nil {
				return err
			}
			r.End = args[0]
			return h.maintain(cmd, r)
		}}
	for _, x := range []*cobra.Command{add, end} {
		x.Flags().StringVar(&r.Why, "why", "", "why; kept in the audit")
		x.Flags().StringVar(&r.By, "by", "", "who; by default the user of this system")
	}
	c.AddCommand(add, end, &cobra.Command{Use: "list", Short: "List the windows a site knows that are not over", Args: exactly(0, "no argument"),
		RunE: func(cmd *cobra.Command, _ []string) error { return h.windows(cmd) }})
	return c
}

// askObserver is one question to a site's health service.
func askObserver[Resp, Req any](cmd *cobra.Command, h *watching, verb string, req Req) (Resp, error) {
	return connected(cmd, &h.remote, h.site, func(conn *bus.Conn) (Resp, error) {
		ctx, cancel := context.WithTimeout(cmd.Context(), h.timeout)
		defer cancel()
		return bus.Call[Resp](ctx, conn, api.ServiceHealth, verb, req)
	})
}

func (h *watching) probe(cmd *cobra.Command) error {
	cfg, err := h.load()
	if err != nil {
		return err
	}
	if len(cfg.Health.Probes) == 0 {
		return fmt.Errorf("health probe: %w: the file has no health.probes (docs/operations/health.md)", domain.ErrNotFound)
	}
	all := site.ProbeOnce(cmd.Context(), cfg)
	if h.output == "json" {
		err = printJSON(cmd.OutOrStdout(), map[string]any{"site": cfg.Site, "probes": all})
	} else {
		err = printProbed(cmd.OutOrStdout(), all)
	}
	failed := slices.DeleteFunc(all, func(p site.Probed) bool { return p.Error == "" })
	if len(failed) > 0 {
		err = errors.Join(err, fmt.Errorf("%d of %d probes failed", len(failed), len(cfg.Health.Probes)))
	}
	return err
}

func printProbed(out io.Writer, all []site.Probed) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "OBJECT\tPROBE\tTOOK\tRESULT")
	for _, p := range all {
		fmt.Fprintf(w, "%s\t%s %s\t%s\t%s\n", p.Of, p.Kind, p.Target, p.TookNs.Round(time.Millisecond), cmp.Or(p.Error, "well"))
	}
	return w.Flush()
}

func (h *watching) maintain(cmd *cobra.Command, r api.MaintenanceChange) error {
	sayWho(&r.By, &r.Host)
	m, err := askObserver[api.Maintenance](cmd, h, api.VerbMaintain, r)
	if err != nil {
		return err
	}
	if h.output == "json" {
		return printJSON(cmd.OutOrStdout(), m)
	}
	if r.End != "" {
		fmt.Fprintf(cmd.OutOrStdout(), "maintenance %s of %s is over\n", m.ID, m.About)
		return nil
	}
	fmt.Fprintf(cmd.OutOrStdout(), "maintenance %s of %s until %s; the other sites learn it as soon as they hear this one\n", m.ID, m.About, m.Until.Local().Format(time.DateTime))
	return nil
}

func (h *watching) windows(cmd *cobra.Command) error {
	st, err := askObserver[api.HealthStatus](cmd, h, api.VerbStatus, api.Empty{})
	if err != nil {
		return err
	}
	if h.output == "json" {
		return printJSON(cmd.OutOrStdout(), map[string]any{"site": st.Site, "maintenance": slices.Concat([]api.Maintenance{}, st.Maintenance)})
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tPART\tFROM\tUNTIL\tBY\tWHY")
	for _, m := range st.Maintenance {
		until := m.Until.Local().Format(time.DateTime)
		if !m.Ended.IsZero() {
			until = "ended " + m.Ended.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", m.ID, m.About, m.From.Local().Format(time.DateTime), until, strings.TrimSpace(m.By+" "+m.Claimed), m.Why)
	}
	return w.Flush()
}

func (h *watching) evidence(cmd *cobra.Command, id string) error {
	r, err := askObserver[api.EvidenceReply](cmd, h, api.VerbEvidence, api.EvidenceRequest{ID: id})
	if err != nil {
		return err
	}
	switch {
	case h.output == "json" && id != "":
		return printJSON(cmd.OutOrStdout(), r.Evidence[0])
	case h.output == "json":
		return printJSON(cmd.OutOrStdout(), r)
	case id != "":
		return printEvidence(cmd.OutOrStdout(), r.Evidence[0])
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTIME\tWHAT\tSITE\tTEXT")
	for _, e := range r.Evidence {
		fmt.Fprintf(w, "%s\t%s\t%s %s\t%s\t%s\n", e.ID, e.At.Local().Format(time.DateTime), e.Entity, e.Fact, e.Assessment.Site, e.Assessment.Text)
	}
	return w.Flush()
}

func printEvidence(out io.Writer, e api.Evidence) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "id\t%s\nwhat\t%s %s of site %s, as site %s concluded\nat\t%s\n", e.ID, e.Entity, e.Fact, e.Assessment.Site, e.Site, moment(e.At))
	if !e.FirstMissed.IsZero() {
		fmt.Fprintf(w, "first missed\t%s\n", moment(e.FirstMissed))
	}
	fmt.Fprintf(w, "parts\t%s\ntext\t%s\n", strings.Join(e.Assessment.Parts, ", "), e.Assessment.Text)
	fmt.Fprintln(w, "\nOBSERVER\tCONFIDENCE\tCOUNTED\tSAW\tON PATH\tSTATE\tSINCE\tPHI\tDETAIL")
	for _, x := range e.Witnesses {
		counted := "yes"
		if !x.Counted {
			counted = "no: " + strings.Join(x.Doubts, "; ")
		}
		for _, o := range x.Observations {
			fmt.Fprintf(w, "%s\t%.1f\t%s\t%s/%s\t%s\t%s\t%s\t%.1f\t%s\n", x.Observer, x.Confidence, counted, o.Kind, o.ID, o.Path, o.State, moment(o.Since), o.Suspicion, o.Detail)
		}
	}
	return w.Flush()
}

func moment(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000") }

func (h *watching) show(cmd *cobra.Command) error {
	cfg, mesh, err := h.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), h.timeout)
	defer cancel()
	all, problems := h.ask(ctx, cfg, mesh)
	if len(all)+len(problems) == 0 {
		return fmt.Errorf("--site %q is no site of the configuration: %w", h.site, domain.ErrInvalid)
	}
	if h.output == "json" {
		err = printJSON(cmd.OutOrStdout(), map[string]any{"sites": all, "problems": problems})
	} else {
		err = printHealth(cmd.OutOrStdout(), all, problems)
	}
	if err == nil && len(problems) > 0 {
		err = fmt.Errorf("the answer is %w: %d health services did not answer: see the problems above", errPartial, len(problems))
	}
	return err
}

// ask asks every site's health service, or the one that was named.
func (h *watching) ask(ctx context.Context, cfg config.Config, mesh *bus.Mesh) (all []api.HealthStatus, problems []string) {
	for _, s := range cfg.Sites {
		if h.site != "" && h.site != string(s.ID) {
			continue
		}
		conn, err := mesh.Conn(s.ID)
		var st api.HealthStatus
		if err == nil {
			wctx, cancel := context.WithTimeout(ctx, connectPatience)
			if err = conn.AwaitConnected(wctx); err == nil {
				st, err = bus.Call[api.HealthStatus](wctx, conn, api.ServiceHealth, api.VerbStatus, api.Empty{})
			}
			cancel()
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("site %s: %v", s.ID, err))
			continue
		}
		all = append(all, st)
	}
	return all, problems
}

func printHealth(out io.Writer, all []api.HealthStatus, problems []string) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, st := range all {
		trust := fmt.Sprintf("confidence %.1f", st.View.Confidence)
		if st.View.Sick {
			trust += ", it counts for nobody: " + strings.Join(st.View.Doubts, "; ")
		}
		fmt.Fprintf(w, "observer of site %s: %s\n", st.Site, trust)
		fmt.Fprintln(w, "  SITE\tCLASS\tPARTS\tTEXT")
		for _, a := range st.Assessments {
			text := a.Text
			if len(a.Maintained) > 0 {
				text += " [under maintenance: " + strings.Join(a.Maintained, ", ") + "]"
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", a.Site, a.Class, strings.Join(a.Parts, ", "), text)
		}
		fmt.Fprintln(w, "  SEES\tON PATH\tSTATE\tPHI\tDETAIL")
		for _, o := range st.View.Observations {
			if o.Kind == "site" || o.State != api.StateAlive {
				fmt.Fprintf(w, "  %s:%s\t%s\t%s\t%.1f\t%s\n", o.Kind, o.ID, o.Path, o.State, o.Suspicion, o.Detail)
			}
		}
		fmt.Fprintln(w)
	}
	for _, p := range problems {
		fmt.Fprintf(w, "problem\t%s\n", p)
	}
	return w.Flush()
}
