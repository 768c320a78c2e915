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
	"github.com/holdfast-dr/holdfast/services/replicator/survey"
)

func linkCommand() *cobra.Command {
	r := new(remote)
	c := parent(&cobra.Command{Use: "link", Short: "Look at the links between sites"})
	r.flags(c)
	c.AddCommand(linkSurveyCommand(r))
	return c
}

// surveyFlags are the flags of holdfast link survey.
type surveyFlags struct {
	duration, bearable time.Duration
	rateLimit          string
}

func linkSurveyCommand(r *remote) *cobra.Command {
	var f surveyFlags
	c := &cobra.Command{
		Use: "survey A B", Short: "Measure the link from site A to site B, and advise sync or async for each group", Args: exactly(2, "two sites, A and B"),
		Long: "Measure the link from site A to site B, as replication from A uses it: through B's NATS server to B's replicator. Then hold it\n" +
			"against what each group was recorded to write at A: how much longer synchronous writes would take, by how much asynchronous\n" +
			"ones would lag, how large a journal rides out an outage of an hour. See docs/operations/links.md.",
		Example: "  holdfast link survey a b --duration 30s",
		RunE: func(cmd *cobra.Command, args []string) error {
			return linkSurvey(cmd, r, domain.SiteID(args[0]), domain.SiteID(args[1]), f)
		},
	}
	c.Flags().DurationVar(&f.duration, "duration", 10*time.Second, "how long to measure, 1s to 1m")
	c.Flags().DurationVar(&f.bearable, "bearable", survey.DefaultBearable, "how much longer a synchronous write may take, at p99")
	c.Flags().StringVar(&f.rateLimit, "rate-limit", "", "most that the measurement may send a second, such as 10MiB; by default half of the time at full speed")
	return c
}

func linkSurvey(cmd *cobra.Command, r *remote, from, to domain.SiteID, f surveyFlags) error {
	req := api.SurveyRequest{To: to, DurationNs: int64(f.duration), BearableNs: int64(f.bearable)}
	if f.rateLimit != "" {
		n, err := config.ParseSize(f.rateLimit)
		if err != nil || n == 0 {
			return fmt.Errorf("--rate-limit %q: %w: write bytes a second with their unit, such as 10MiB", f.rateLimit, domain.ErrInvalid)
		}
		req.RateLimit = int64(n)
	}
	_, mesh, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	conn, err := atSite(mesh, string(from))
	if err != nil {
		return err
	}
	if _, err := atSite(mesh, string(to)); err != nil {
		return err
	}
	wctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
	defer cancel()
	if err := conn.AwaitConnected(wctx); err != nil {
		return fmt.Errorf("%w: a survey is made by the replicator of site %s", err, from)
	}
	ctx, end := context.WithTimeout(cmd.Context(), f.duration+r.timeout+30*time.Second)
	defer end()
	reply, err := bus.Call[api.SurveyReply](ctx, conn, api.ServiceReplicator, api.VerbSurvey, req)
	if bus.Unanswered(err) {
		return fmt.Errorf("survey the link from site %s: no replicator answers there: is it a data site, and is its replicator running? %w", from, err)
	}
	if err != nil {
		return err
	}
	if r.output == "json" {
		return printJSON(cmd.OutOrStdout(), reply)
	}
	return printSurvey(cmd.OutOrStdout(), reply)
}

func printSurvey(out io.Writer, s api.SurveyReply) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	t := s.Link.RoundTrip
	fmt.Fprintf(w, "link\t%s to %s, %s\n", s.From, s.To, s.At.Format(time.RFC3339))
	fmt.Fprintf(w, "round trip\tmin %.2f ms, p50 %.2f, p99 %.2f, max %.2f, jitter %.2f; %d of %d lost\n", t.Min, t.P50, t.P99, t.Max, t.Jitter, t.Lost, t.Sent)
	fmt.Fprintf(w, "distance\t%.0f km of fibre at most\n", s.Link.DistanceKm)
	fmt.Fprintf(w, "%s to %s\t%s\n%s to %s\t%s\n", s.From, s.To, bandwidthText(s.Link.Out), s.To, s.From, bandwidthText(s.Link.Back))
	if len(s.Groups) == 0 {
		fmt.Fprintf(w, "\nNo group was served at site %s: survey from where groups run.\n", s.From)
		return w.Flush()
	}
	fmt.Fprintln(w, "\nGROUP\tNOW\tADVICE\tMEAN\tPEAK\tSYNC ADDS P50\tP99\tSYNC UP TO\tASYNC RPO\tTARGET\tJOURNAL FOR 1H\tHAS")
	for _, g := range s.Groups {
		target := "-"
		if g.RPOTarget > 0 {
			target = fmt.Sprintf("%.0f s", g.RPOTarget)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s/s\t%s/s\t%.2f ms\t%.2f ms\t%.0f km\t%.2f s\t%s\t%s\t%s\n", g.Group, g.Mode, g.Advice, survey.Bytes(g.MeanRate), survey.Bytes(g.PeakRate),
			g.Sync.AddedP50, g.Sync.AddedP99, g.Sync.MaxDistanceKm, g.Async.RPO, target, survey.Bytes(g.Journal.Needs), survey.Bytes(float64(g.Journal.Has)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, g := range s.Groups {
		for _, why := range g.Reasons {
			fmt.Fprintf(out, "\n%s: %s", g.Group, why)
		}
	}
	_, err := fmt.Fprintln(out)
	return err
}

func bandwidthText(b api.Bandwidth) string {
	if b.BytesPerSecond == 0 {
		return "not measured: replication needed the link"
	}
	text := survey.Bytes(b.BytesPerSecond) + "/s"
	if b.AtLeast {
		text += " or more"
	}
	if b.Skipped > 0 {
		text += fmt.Sprintf(" (%d bursts left out: replication needed the link)", b.Skipped)
	}
	return text
}
