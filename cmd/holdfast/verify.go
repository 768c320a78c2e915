package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// verifier is one call of holdfast verify.
type verifier struct {
	remote
	site string
	wait bool
	req  api.VerifyRequest
}

func verifyCommand() *cobra.Command {
	v := new(verifier)
	c := &cobra.Command{
		Use: "verify GROUP", Short: "Compare the targets' copies of a group with the primary's, while writes go on", Args: exactly(1, "one GROUP"),
		Long: "Compare every block of a group's volumes at its targets with the primary's, at an equal LSN and while writes go on. What differs is\n" +
			"named with volume, offset and length, is an event each, and makes the exit code 1. With --heal the primary's content of those blocks is\n" +
			"written once more in the group's order, so that the target becomes right; the primary is never changed. Whether it is the primary that is\n" +
			"wrong nobody can tell from here: look at the extents first.",
		Example: "  holdfast verify erp --config site-a.yaml\n  holdfast verify erp --site b --heal --why 'a disk of b was replaced' --config site-a.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			if v.req.Heal {
				if err := need(cmd, "why"); err != nil {
					return err
				}
			}
			v.req.Group = domain.GroupID(args[0])
			return v.run(cmd)
		},
	}
	v.flags(c)
	f := c.Flags()
	f.StringVar(&v.site, "site", "", "the target to compare; by default all, one after the other")
	f.BoolVar(&v.req.Heal, "heal", false, "write what differs once more")
	f.StringVar(&v.req.Why, "why", "", "why it is to be healed; kept in the audit")
	f.StringVar(&v.req.By, "by", "", "who; by default the user of this system")
	f.BoolVar(&v.wait, "wait", true, "wait for the end; without, holdfast group show tells how far it is")
	return c
}

func (v *verifier) run(cmd *cobra.Command) error {
	cfg, mesh, err := v.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	conn, primary, err := v.primary(cmd.Context(), cfg, mesh)
	if err != nil {
		return err
	}
	sayWho(&v.req.By, &v.req.Host)
	var all []api.VerifyStatus
	for _, t := range primary.Targets {
		if v.site != "" && v.site != string(t.Site) {
			continue
		}
		st, err := v.one(cmd, conn, t.Site)
		if err != nil {
			return err
		}
		all = append(all, st)
	}
	if len(all) == 0 {
		return fmt.Errorf("group %s has no target %q at site %s: see holdfast group show %s: %w", v.req.Group, v.site, conn.Site(), v.req.Group, domain.ErrNotFound)
	}
	if v.output == "json" {
		err = printJSON(cmd.OutOrStdout(), map[string]any{"group": v.req.Group, "primary": conn.Site(), "targets": all})
	} else {
		err = printVerified(cmd.OutOrStdout(), all)
	}
	return errors.Join(err, verdict(v.req.Group, all))
}

// primary finds the site that serves the group.
func (v *verifier) primary(ctx context.Context, cfg config.Config, mesh *bus.Mesh) (*bus.Conn, api.GroupStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, v.timeout)
	defer cancel()
	var problems []error
	for _, s := range cfg.Sites {
		if s.Role != domain.SiteData {
			continue
		}
		conn, err := mesh.Conn(s.ID)
		if err != nil {
			return nil, api.GroupStatus{}, err
		}
		wctx, cancel := context.WithTimeout(ctx, connectPatience)
		err = conn.AwaitConnected(wctx)
		cancel()
		var st api.ReplicatorStatus
		if err == nil {
			st, err = bus.Call[api.ReplicatorStatus](ctx, conn, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{Group: v.req.Group})
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("site %s: %w", s.ID, err))
		}
		for _, g := range st.Groups {
			if g.Role == domain.RolePrimary {
				return conn, g, nil
			}
		}
	}
	return nil, api.GroupStatus{}, fmt.Errorf("no site that answers serves group %s: see holdfast group show %s: %w", v.req.Group, v.req.Group, errors.Join(append(problems, domain.ErrNotFound)...))
}

// one compares one target and follows it to its end.
func (v *verifier) one(cmd *cobra.Command, conn *bus.Conn, target domain.SiteID) (api.VerifyStatus, error) {
	v.req.Target = target
	ctx, cancel := context.WithTimeout(cmd.Context(), v.timeout)
	st, err := bus.Call[api.VerifyStatus](ctx, conn, api.ServiceReplicator, api.VerbVerify, v.req)
	cancel()
	if err != nil || !v.wait {
		return st, err
	}
	if st.Heal != v.req.Heal {
		return st, fmt.Errorf("another comparison of target %s runs, with heal %v: wait for its end: %w", target, st.Heal, domain.ErrConflict)
	}
	began, heard := st.Started, time.Now()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for st.Running {
		select {
		case <-tick.C:
		case <-cmd.Context().Done():
			return st, cmd.Context().Err()
		}
		next, err := verifyState(cmd.Context(), conn, v.req.Group, target, began)
		switch {
		case errors.Is(err, domain.ErrNotFound) && time.Since(heard) > v.timeout: // sooner it may go on after a restart
			return st, err
		case err == nil:
			st, heard = next, time.Now()
			if v.output == "text" {
				fmt.Fprintf(cmd.ErrOrStderr(), "target %s: %s\n", target, verifyText(st))
			}
		case time.Since(heard) > v.timeout:
			return st, fmt.Errorf("follow the comparison of target %s: site %s does not answer; it goes on there: see holdfast group show %s: %w", target, conn.Site(), v.req.Group, err)
		}
	}
	return st, nil
}

// verifyState asks for the comparison of a target that began then.
func verifyState(ctx context.Context, conn *bus.Conn, id domain.GroupID, target domain.SiteID, began time.Time) (api.VerifyStatus, error) {
	st, err := bus.Call[api.ReplicatorStatus](ctx, conn, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{Group: id})
	if err != nil {
		return api.VerifyStatus{}, err
	}
	for _, g := range st.Groups {
		for _, x := range g.Verify {
			if x.Target == target && x.Started.Equal(began) {
				return x, nil
			}
		}
	}
	return api.VerifyStatus{}, fmt.Errorf("site %s knows no more of the comparison of target %s: was its replicator started again? run it again: %w", conn.Site(), target, domain.ErrNotFound)
}

// verifyText is a comparison in one line.
func verifyText(st api.VerifyStatus) string {
	text := fmt.Sprintf("%s of %s compared", config.Size(st.Bytes), config.Size(st.Total))
	if st.Running {
		text += ", " + rateText(st.RateBytes, st.LeftSeconds)
	}
	if st.Resumed > 0 {
		text += fmt.Sprintf(", goes on from %s", config.Size(st.Resumed))
	}
	text += fmt.Sprintf(", %d bytes differ, %d healed", st.Differ, st.Healed)
	if st.Undecided > 0 {
		text += fmt.Sprintf(", %d undecided", st.Undecided)
	}
	if st.Error != "" {
		text += ": " + st.Error
	}
	if !st.FailedSince.IsZero() && !st.LastGood.IsZero() {
		text += "; last good " + st.LastGood.Local().Format(time.DateTime)
	}
	if !st.Again.IsZero() && !st.Running {
		text += "; the schedule tries again at " + st.Again.Local().Format(time.DateTime)
	}
	return text
}

// rateText is how fast something goes, and how long it still takes.
func rateText(bytesPerSecond, leftSeconds float64) string {
	if bytesPerSecond <= 0 {
		return "not known how long yet"
	}
	return fmt.Sprintf("%.1f MiB/s, %s left", bytesPerSecond/(1<<20), time.Duration(leftSeconds*float64(time.Second)).Round(time.Second))
}

func printVerified(out io.Writer, all []api.VerifyStatus) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, st := range all {
		fmt.Fprintf(w, "target %s\t%s\n", st.Target, verifyText(st))
		for _, x := range st.Extents {
			fmt.Fprintf(w, "differs\tvolume %s, %d bytes at %d, LSN %d, healed %v\n", x.Volume, x.Length, x.Offset, x.LSN, x.Healed)
		}
	}
	return w.Flush()
}

// verdict is what the comparisons come to, for the exit code.
func verdict(id domain.GroupID, all []api.VerifyStatus) error {
	for _, st := range all {
		switch {
		case st.Error != "":
			return fmt.Errorf("verify group %s, target %s: %s", id, st.Target, st.Error)
		case st.Differ > st.Healed:
			return fmt.Errorf("group %s: %d bytes differ at target %s: see the extents above, and holdfast verify %s --site %s --heal", id, st.Differ-st.Healed, st.Target, id, st.Target)
		case st.Undecided > 0:
			return fmt.Errorf("group %s: the comparison of target %s is %w: %d bytes could not be compared at an equal LSN: run it again", id, st.Target, errPartial, st.Undecided)
		}
	}
	return nil
}

// printProgress tells of long work with a group's targets.
func printProgress(w io.Writer, g api.GroupStatus) {
	for _, t := range g.Targets {
		if r := t.Resync; r != nil && r.Phase != api.ResyncCompleted {
			what := fmt.Sprintf("%s sent of %s", config.Size(t.ResyncBytes), config.Size(t.ResyncTotal))
			if r.Phase == api.ResyncComparing {
				what = fmt.Sprintf("%s compared of %s", config.Size(r.ComparedBytes), config.Size(r.CompareTotal))
			}
			fmt.Fprintf(w, "resync of %s\t%s: %s, %s", t.Site, r.Phase, what, rateText(r.RateBytes, r.LeftSeconds))
			if r.ResumedBytes > 0 {
				fmt.Fprintf(w, ", goes on with %s that were staged", config.Size(r.ResumedBytes))
			}
			fmt.Fprintln(w)
		}
	}
	for _, v := range g.Verify {
		when := "since " + v.Started.Local().Format(time.DateTime)
		if !v.Running {
			when = "at " + v.Ended.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "verified %s\t%s: %s\n", v.Target, when, verifyText(v))
	}
}
