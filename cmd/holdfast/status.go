package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// siteStatus is what one site says of itself; what did not answer is in Problems.
type siteStatus struct {
	Site       domain.SiteID         `json:"site"`
	Reachable  bool                  `json:"reachable"`
	Via        domain.SiteID         `json:"via,omitempty"` // by whose relay it is reached from here
	Quorum     *api.QuorumStatus     `json:"quorum,omitempty"`
	Health     *api.HealthStatus     `json:"health,omitempty"`
	Replicator *api.ReplicatorStatus `json:"replicator,omitempty"`
	Failover   *api.FailoverStatus   `json:"failover,omitempty"`
	Problems   []string              `json:"problems,omitempty"`
}

func statusCommand() *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use: "status", Short: "Show every site, group and VM", Args: exactly(0, "no argument"),
		Long: "Show every site, group and VM. Where a site or a service does not answer, what the others say is printed all the same,\n" +
			"and the exit code is 4.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, mesh, err := r.open(cmd.Context())
			if err != nil {
				return err
			}
			defer mesh.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
			defer cancel()
			all, err := askSites(ctx, cfg, mesh)
			if err != nil {
				return err
			}
			if r.output == "json" {
				err = printJSON(cmd.OutOrStdout(), map[string]any{"sites": all})
			} else {
				err = printStatus(cmd.OutOrStdout(), all)
			}
			if err != nil {
				return err
			}
			return whole(all)
		},
	}
	r.flags(c)
	return c
}

// whole is nil when every site answered in full, and otherwise names those that did not, for the exit code.
func whole(all []siteStatus) error {
	var missing []string
	for _, s := range all {
		if len(s.Problems) > 0 {
			missing = append(missing, string(s.Site))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("status is %w: not all of site %s answered: see its problems above", errPartial, strings.Join(missing, ", "))
}

// connectPatience is how long a site may take to be connected to before it is told as not reachable: a first attempt that
// fails on a busy machine is made again within it.
const connectPatience = time.Second

// answerPatience is how long one service of a site may take to answer, each time that it is asked. A question or its answer
// is lost when the service's connection ends just then, as it does where credentials are retired: so what nobody answered in
// the first time is asked once more.
var answerPatience = [...]time.Duration{time.Second, 2 * time.Second}

func askSite(ctx context.Context, conn *bus.Conn, s config.Site) siteStatus {
	wctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	st := siteStatus{Site: conn.Site(), Via: s.Via, Reachable: conn.AwaitConnected(wctx) == nil}
	if !st.Reachable {
		st.Problems = []string{"its NATS server cannot be reached from here" + via(s.Via)}
		return st
	}
	st.Quorum = ask[api.QuorumStatus](ctx, conn, &st, api.ServiceQuorum, api.Empty{})
	st.Health = ask[api.HealthStatus](ctx, conn, &st, api.ServiceHealth, api.Empty{})
	if s.Role == domain.SiteData {
		st.Replicator = ask[api.ReplicatorStatus](ctx, conn, &st, api.ServiceReplicator, api.GroupRequest{})
		st.Failover = ask[api.FailoverStatus](ctx, conn, &st, api.ServiceFailover, api.Empty{})
	}
	return st
}

// via says by whose relay a site is reached; nothing for one that is reached directly.
func via(site domain.SiteID) string {
	if site == "" {
		return ""
	}
	return " via " + string(site)
}

func ask[Resp, Req any](ctx context.Context, conn *bus.Conn, st *siteStatus, service string, req Req) *Resp {
	var resp Resp
	var err error
	for _, patience := range answerPatience { // a service that hangs is not to cost the others their time
		attempt, cancel := context.WithTimeout(ctx, patience)
		resp, err = bus.Call[Resp](attempt, conn, service, api.VerbStatus, req)
		silent := errors.Is(attempt.Err(), context.DeadlineExceeded)
		cancel()
		if err == nil {
			return &resp
		}
		if !silent || ctx.Err() != nil {
			break
		}
	}
	st.Problems = append(st.Problems, fmt.Sprintf("%s: %v", service, err))
	return nil
}

func printStatus(out io.Writer, all []siteStatus) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SITE\tREACHABLE\tSEES")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%v%s\t%s\n", s.Site, s.Reachable, via(s.Via), assessments(s.Health))
	}
	fmt.Fprintln(w, "\nGROUP\tSITE\tROLE\tEPOCH\tSERVING\tHEAD LSN\tTARGET\tSTATE\tIN SYNC\tLAG")
	for _, s := range all {
		if s.Replicator == nil {
			continue
		}
		for _, g := range s.Replicator.Groups {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%v\t%d", g.Group, s.Site, g.Role, g.Epoch, g.Serving, g.HeadLSN)
			if len(g.Targets) == 0 {
				fmt.Fprint(w, "\t-\t-\t-\t-")
			}
			for _, t := range g.Targets {
				fmt.Fprintf(w, "\t%s\t%s\t%v\t%.1f s, %d B", t.Site, t.State, t.InSync, t.LagSeconds, t.LagBytes)
			}
			fmt.Fprintln(w)
			for _, q := range g.Quarantined {
				fmt.Fprintf(w, "\t%s\tkept aside: %d writes, %d bytes of epoch %s in %s\n", s.Site, q.Writes, q.Bytes, q.Epoch, q.Path)
			}
			printProgress(w, g)
			printHeld(w, g)
			if g.Error != "" {
				fmt.Fprintf(w, "\t%s\terror: %s\n", s.Site, g.Error)
			}
		}
	}
	fmt.Fprintln(w, "\nVM\tGROUP\tSTATE\tADDRESS\tEPOCH")
	for _, s := range all {
		if s.Failover == nil {
			continue
		}
		for _, v := range s.Failover.VMs {
			fmt.Fprintf(w, "%s\t%s\t%s at %s\t%s:%d\t%s\n", v.VM, v.Group, v.State, s.Site, v.Address, v.Port, v.Epoch)
		}
	}
	for _, s := range all {
		if s.Failover != nil && s.Failover.Drain != nil {
			fmt.Fprintln(w)
			printDrain(w, s.Site, *s.Failover.Drain)
		}
	}
	printVoters(w, all)
	printNodes(w, all)
	for _, s := range all {
		if s.Replicator != nil && s.Replicator.NoLines != "" {
			fmt.Fprintf(w, "\nsite %s: changes come through NATS and not by lines: %s\n", s.Site, s.Replicator.NoLines)
		}
	}
	for _, s := range all {
		for _, p := range s.Problems {
			fmt.Fprintf(w, "\nsite %s: %s\n", s.Site, p)
		}
	}
	return w.Flush()
}

// printVoters tells each voter that a site cannot count on, and why.
func printVoters(w io.Writer, all []siteStatus) {
	for _, s := range all {
		if s.Quorum == nil {
			continue
		}
		printForced(w, s)
		for _, v := range s.Quorum.Voters {
			if !v.Reachable || v.Detail != "" {
				fmt.Fprintf(w, "\nsite %s: voter %s (%s) reachable %v: %s\n", s.Site, v.ID, v.Kind, v.Reachable, v.Detail)
			}
		}
	}
}

// printNodes tells each node whose clock or protocol version is not that of the site that hears it.
func printNodes(w io.Writer, all []siteStatus) {
	for _, s := range all {
		if s.Health == nil {
			continue
		}
		for _, n := range s.Health.Nodes {
			if n.ClockSkewed {
				fmt.Fprintf(w, "\nsite %s: the clock of %s of site %s is %.1f s off: set the clocks by NTP (leases are not affected)\n",
					s.Site, n.Node, n.Site, time.Duration(n.ClockOffsetNs).Seconds())
			}
			if n.Refused != "" {
				fmt.Fprintf(w, "\nsite %s: %s of site %s is refused: %s\n", s.Site, n.Node, n.Site, n.Refused)
			}
		}
	}
}

func assessments(h *api.HealthStatus) string {
	if h == nil {
		return "no health service"
	}
	text := ""
	for _, a := range h.Assessments {
		if a.Class != api.ClassNone && a.Class != "" {
			text += fmt.Sprintf("%s: %s %s; ", a.Site, a.Class, a.Text)
		}
	}
	if text == "" {
		return "all well"
	}
	return text
}
