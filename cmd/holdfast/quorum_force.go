package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum"
)

// forceFlags are those of quorum force.
type forceFlags struct {
	remote
	site string
	all  bool
	req  api.ForceRequest
}

func quorumForceCommand() *cobra.Command {
	o := new(forceFlags)
	c := &cobra.Command{
		Use: "force GROUP...", Short: "Ask to take groups with the voters you name, where no majority can be had",
		Long: "Ask a data site to take groups with the voters you name, where no majority of votes can be had any more. Nothing is done\n" +
			"before somebody else approves (holdfast quorum approve). Every voter is either named or said to be lost; with --down you give\n" +
			"your word that the machines of the lost ones are switched off and stay off until it is done. See docs/operations/quorum.md.",
		Example: "  holdfast quorum force erp --voters b,w --lost a --down --why 'fire in hall 1' --config site-b.yaml",
		RunE:    func(cmd *cobra.Command, args []string) error { return quorumForce(cmd, o, args) },
	}
	o.flags(c)
	f := c.Flags()
	f.StringVar(&o.site, "site", "", "the data site that takes the groups (default: the one of the configuration file)")
	f.BoolVar(&o.all, "all", false, "every group the site knows of, in place of GROUP")
	f.StringSliceVar(&o.req.Voters, "voters", nil, "the voters that answer: from then on nobody else votes, until it is healed")
	f.StringSliceVar(&o.req.Lost, "lost", nil, "every other voter")
	f.BoolVar(&o.req.Down, "down", false, "I looked: the machines of the lost voters are off, and stay off until it is done")
	f.BoolVar(&o.req.Prevented, "prevented", false, "I see to it that lost sites may join only when they start (quorum prevent); asked for where voters of several places are lost")
	f.BoolVar(&o.req.AcceptLoss, "accept-loss", false, "acknowledged writes may be lost")
	f.StringVar(&o.req.Why, "why", "", "why; kept in the audit")
	f.StringVar(&o.req.By, "by", "", "who; by default the user of this system")
	return c
}

func quorumForce(cmd *cobra.Command, o *forceFlags, args []string) error {
	if o.all == (len(args) > 0) {
		return fmt.Errorf("%s takes GROUP..., or --all: %w", cmd.CommandPath(), domain.ErrInvalid)
	}
	if err := need(cmd, "why", "voters"); err != nil {
		return err
	}
	for _, g := range args {
		o.req.Groups = append(o.req.Groups, domain.GroupID(g))
	}
	sayWho(&o.req.By, &o.req.Host)
	st, err := connected(cmd, &o.remote, o.site, func(conn *bus.Conn) (api.ForceStatus, error) {
		ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
		defer cancel()
		if err := o.fill(ctx, conn); err != nil {
			return api.ForceStatus{}, err
		}
		return bus.Call[api.ForceStatus](ctx, conn, api.ServiceQuorum, api.VerbForce, o.req)
	})
	if err != nil {
		return err
	}
	if o.output == "json" {
		return printJSON(cmd.OutOrStdout(), st)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "asked for: %s. Nothing is done yet.\n", st.ID)
	printForce(out, st)
	fmt.Fprintf(out, "Somebody else approves within %v:\n  holdfast quorum approve %s --site %s --by NAME --config FILE\n",
		time.Duration(st.RemainingNs).Round(time.Minute), st.ID, st.Site)
	return nil
}

// fill finds out which groups there are, and what may be lost of each.
func (o *forceFlags) fill(ctx context.Context, conn *bus.Conn) error {
	if o.all {
		st, err := bus.Call[api.QuorumStatus](ctx, conn, api.ServiceQuorum, api.VerbStatus, api.Empty{})
		if err != nil {
			return err
		}
		for _, l := range st.Groups {
			if !l.Held {
				o.req.Groups = append(o.req.Groups, l.Group)
			}
		}
		if len(o.req.Groups) == 0 {
			return fmt.Errorf("site %s knows of no group that it does not hold already: name the groups: %w", conn.Site(), domain.ErrNotFound)
		}
	}
	o.req.Estimates = map[domain.GroupID]string{}
	for _, g := range o.req.Groups {
		o.req.Estimates[g] = estimateText(bus.Call[api.LossEstimate](ctx, conn, api.ServiceReplicator, api.VerbEstimate, api.EstimateRequest{Group: g}))
	}
	return nil
}

func estimateText(e api.LossEstimate, err error) string {
	switch {
	case err != nil:
		return "not known: " + err.Error()
	case !e.Known:
		return "not known: nothing was heard of the primary's last write"
	case e.AtLeast: // its text says as of when
		return e.Text
	}
	return e.Text + " as of " + e.AsOf.UTC().Format(time.RFC3339)
}

func printForce(w io.Writer, st api.ForceStatus) {
	fmt.Fprintf(w, "  site %s takes %s with the voters %s; lost: %s\n  asked by %s (%s): %s\n", st.Site, named(st.Groups), strings.Join(st.Voters, ", "),
		cmp.Or(strings.Join(st.Lost, ", "), "none"), st.By, st.Asked, st.Why)
	for _, g := range st.Groups {
		fmt.Fprintf(w, "  %s may lose: %s; the loss is accepted: %v\n", g, st.Estimates[g], st.AcceptLoss)
	}
}

func named[T ~string](all []T) string {
	parts := make([]string, len(all))
	for i, one := range all {
		parts[i] = string(one)
	}
	return strings.Join(parts, ", ")
}

func quorumApproveCommand() *cobra.Command {
	var r remote
	var site string
	var req api.ForceApproval
	c := &cobra.Command{
		Use: "approve ID", Short: "Approve, as a second operator, that quorum is forced, and wait for how it ends", Args: exactly(1, "one ID (see holdfast quorum force)"),
		Long: "Approve that quorum is forced as another operator asked for, and wait for how it ends. It needs another name, and the\n" +
			"operator's credentials of another site; with --same-credential those of one site will do, which the audit keeps.",
		Example: "  holdfast quorum approve q3v7k2ma --site b --by sam --config site-w.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.ID = args[0]
			sayWho(&req.By, &req.Host)
			return quorumApprove(cmd, &r, site, req)
		},
	}
	r.flags(c)
	f := c.Flags()
	f.StringVar(&site, "site", "", "the site it was asked for at (default: the one of the configuration file)")
	f.BoolVar(&req.Withdraw, "withdraw", false, "take the request back in place of approving")
	f.BoolVar(&req.SameCredential, "same-credential", false, "the operator's credentials of one site are all there are at hand")
	f.StringVar(&req.By, "by", "", "who; by default the user of this system")
	return c
}

// forcePatience is longer than a force can take.
const forcePatience = 3 * time.Minute

func quorumApprove(cmd *cobra.Command, r *remote, site string, req api.ForceApproval) error {
	st, err := connected(cmd, r, site, func(conn *bus.Conn) (api.ForceStatus, error) {
		ctx, cancel := context.WithTimeout(cmd.Context(), forcePatience)
		defer cancel()
		st, err := bus.Call[api.ForceStatus](ctx, conn, api.ServiceQuorum, api.VerbApprove, req)
		if err == nil && r.output == "text" {
			printForce(cmd.OutOrStdout(), st)
			fmt.Fprintln(cmd.OutOrStdout(), "approved by", st.Approver, "("+st.Approved+"), two credentials:", st.Proven)
		}
		for err == nil && st.State == api.ForceUnderWay {
			select {
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
				return st, ctx.Err()
			}
			st, err = forceNow(ctx, conn, req.ID)
		}
		return st, err
	})
	if err != nil {
		return err
	}
	if r.output == "json" {
		err = printJSON(cmd.OutOrStdout(), st)
	}
	failed := 0
	for _, o := range st.Outcomes {
		if o.Error != "" {
			failed++
		}
		if r.output != "json" {
			fmt.Fprintln(cmd.OutOrStdout(), outcomeText(st.Site, o))
		}
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d of %d groups: force of quorum %w: see above", failed, len(st.Groups), domain.ErrRefused)
	}
	return err
}

func outcomeText(site domain.SiteID, o api.ForceOutcome) string {
	if o.Error != "" {
		return fmt.Sprintf("%s: not forced: %s", o.Group, o.Error)
	}
	return fmt.Sprintf("%s: site %s holds the lease under epoch %s; bring it up: holdfast run start (see docs/operations/quorum.md)", o.Group, site, o.Epoch)
}

func forceNow(ctx context.Context, conn *bus.Conn, id string) (api.ForceStatus, error) {
	st, err := bus.Call[api.QuorumStatus](ctx, conn, api.ServiceQuorum, api.VerbStatus, api.Empty{})
	if err != nil {
		return api.ForceStatus{}, err
	}
	i := slices.IndexFunc(st.Forces, func(f api.ForceStatus) bool { return f.ID == id })
	if i < 0 {
		return api.ForceStatus{}, fmt.Errorf("force %s: %w: the quorum service of site %s was started again meanwhile: see holdfast status", id, domain.ErrNotFound, conn.Site())
	}
	return st.Forces[i], nil
}

func quorumPreventCommand() *cobra.Command {
	var r remote
	var offline bool
	var req api.PreventRequest
	c := &cobra.Command{
		Use: "prevent SITE on|off", Short: "Keep a site from forming a quorum, through restarts, or allow it again", Args: exactly(2, "SITE, and on or off"),
		Long: "Keep a data site from forming a quorum: it may join one, vote and follow, and takes no lease that it does not hold already.\n" +
			"It stays so through restarts until it is switched off. With --offline the site's own file is changed, for a service that does\n" +
			"not run: so a site that was lost can be told before it starts.",
		Example: "  holdfast quorum prevent a on --why 'quorum was forced at b' --config site-a.yaml --offline",
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] != "on" && args[1] != "off" {
				return fmt.Errorf("quorum prevent %s %q: use on or off: %w", args[0], args[1], domain.ErrInvalid)
			}
			if err := need(cmd, "why"); err != nil {
				return err
			}
			req.On = args[1] == "on"
			sayWho(&req.By, &req.Host)
			return quorumPrevent(cmd, &r, args[0], offline, req)
		},
	}
	r.flags(c)
	f := c.Flags()
	f.BoolVar(&offline, "offline", false, "change the site's own file: its service does not run")
	f.StringVar(&req.Why, "why", "", "why; kept in the audit")
	f.StringVar(&req.By, "by", "", "who; by default the user of this system")
	return c
}

func quorumPrevent(cmd *cobra.Command, r *remote, site string, offline bool, req api.PreventRequest) error {
	var err error
	if offline {
		err = preventOffline(r, site, req)
	} else {
		_, err = connected(cmd, r, site, func(conn *bus.Conn) (api.Empty, error) {
			ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
			defer cancel()
			return bus.Call[api.Empty](ctx, conn, api.ServiceQuorum, api.VerbPrevent, req)
		})
	}
	if err != nil {
		return err
	}
	text := "may form a quorum again"
	if req.On {
		text = "may join a quorum, and forms none until this is switched off"
	}
	fmt.Fprintf(cmd.OutOrStdout(), "site %s %s\n", site, text)
	return nil
}

func preventOffline(r *remote, site string, req api.PreventRequest) error {
	cfg, err := config.Load(r.file)
	switch {
	case err != nil:
		return err
	case string(cfg.Site) != site:
		return fmt.Errorf("quorum prevent %s --offline: %s is the file of site %s: %w", site, r.file, cfg.Site, domain.ErrInvalid)
	case cfg.Self().Role != domain.SiteData:
		return fmt.Errorf("quorum prevent %s: it is a witness, and never forms a quorum: %w", site, domain.ErrRefused)
	}
	return quorum.SetPrevent(filepath.Join(cfg.DataDir, "quorum"), req)
}

// printForced tells what an operator has made of a site's quorum.
func printForced(w io.Writer, s siteStatus) {
	if s.Quorum.Prevented {
		fmt.Fprintf(w, "\nsite %s: may join a quorum, and forms none (holdfast quorum prevent %s off allows it again)\n", s.Site, s.Site)
	}
	for _, l := range s.Quorum.Groups {
		if l.Forced && l.Held {
			var voters []string
			for v, n := range l.Weights {
				if n > 0 {
					voters = append(voters, v)
				}
			}
			slices.Sort(voters)
			fmt.Fprintf(w, "\ngroup %s: quorum was forced at site %s (epoch %s) and is not healed: only %s vote\n", l.Group, s.Site, l.Epoch, strings.Join(voters, ", "))
		}
	}
	for _, f := range s.Quorum.Forces {
		if f.State == api.ForceWaiting || f.State == api.ForceUnderWay {
			fmt.Fprintf(w, "\nsite %s: force %s of %s, asked by %s: %s\n", s.Site, f.ID, named(f.Groups), f.By, f.State)
		}
	}
}
