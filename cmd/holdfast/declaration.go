package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
)

// wordFlags are what a person says of a declaration.
type wordFlags struct {
	why, by, host string
	at            string
	groups        []string
	acceptLoss    bool
}

func (w *wordFlags) flags(c *cobra.Command, approves bool) {
	f := c.Flags()
	f.StringVar(&w.why, "why", "", "why; kept in the audit")
	f.StringVar(&w.by, "by", "", "who; by default the user of this system")
	f.StringSliceVar(&w.groups, "group", nil, "only these groups; by default all that are not decided")
	if approves {
		f.BoolVar(&w.acceptLoss, "accept-loss", false, "accept the estimated loss of groups that are not in sync")
	}
}

func (w *wordFlags) ids() []domain.GroupID {
	var out []domain.GroupID
	for _, g := range w.groups {
		out = append(out, domain.GroupID(g))
	}
	return out
}

func declarationCommand() *cobra.Command {
	r := new(remote)
	c := parent(&cobra.Command{Use: "declaration", Short: "Decide that a lost site's groups are taken over",
		Long: "A declaration is the decision about a lost site, taken at the site that would take its groups over. What it asks for is each group's\n" +
			"failover policy: nobody (auto), one or two people (confirm), or a person who says it unasked (manual)."})
	r.flags(c)
	c.AddCommand(
		&cobra.Command{Use: "list", Short: "List the declarations of every site that answers, newest first", Args: exactly(0, "no argument"),
			RunE: func(cmd *cobra.Command, _ []string) error { return declarationList(cmd, r) }},
		&cobra.Command{Use: "show ID", Short: "Show what a declaration rests on, what it would bring, and what it waits for", Args: exactly(1, "one ID"),
			RunE: func(cmd *cobra.Command, args []string) error {
				return declarationShow(cmd, r, domain.DeclarationID(args[0]))
			}},
		declarationWordCommand(r, "approve", "Approve that a lost site's groups are taken over", api.VerbDeclarationApprove),
		declarationWordCommand(r, "withdraw", "Say that it is no disaster: nothing is taken over before the site was seen again", api.VerbDeclarationWithdraw),
		declarationOpenCommand(r),
	)
	return c
}

func declarationWordCommand(r *remote, name, short, verb string) *cobra.Command {
	w := new(wordFlags)
	c := &cobra.Command{Use: name + " ID", Short: short, Args: exactly(1, "one ID"),
		Example: "  holdfast declaration " + name + " 01JD8Q4ZK3W9V6X2T5N7B1C4HE-a --why 'the provider says so'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "why"); err != nil {
				return err
			}
			return declarationWord(cmd, r, verb, domain.DeclarationID(args[0]), w)
		}}
	w.flags(c, verb == api.VerbDeclarationApprove)
	return c
}

func declarationOpenCommand(r *remote) *cobra.Command {
	w := new(wordFlags)
	c := &cobra.Command{Use: "open SITE", Short: "Say that a site is lost, whoever else has seen it; counts as an approval", Args: exactly(1, "one SITE"),
		Example: "  holdfast declaration open a --why 'the fire brigade says so'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "why"); err != nil {
				return err
			}
			return declarationOpen(cmd, r, domain.SiteID(args[0]), w)
		}}
	w.flags(c, true)
	c.Flags().StringVar(&w.at, "at", "", "the site that is to take the groups over; by default each group's first with a copy")
	return c
}

// askDeclarations gathers what every data site that answers knows. Of one declaration the newest version counts.
func askDeclarations(ctx context.Context, mesh *bus.Mesh) ([]api.Declaration, error) {
	var out []api.Declaration
	answered, why := false, error(nil)
	for _, site := range mesh.Sites() {
		conn, err := mesh.Conn(site)
		if err != nil {
			return nil, err
		}
		if !conn.Connected() {
			continue
		}
		list, err := bus.Call[api.DeclarationList](ctx, conn, api.ServiceFailover, api.VerbDeclarationList, api.Empty{})
		if err != nil {
			if !bus.Unanswered(err) { // a witness has no such service
				why = errors.Join(why, err)
			}
			continue
		}
		answered = true
		for _, d := range list.Declarations {
			i := slices.IndexFunc(out, func(have api.Declaration) bool { return have.ID == d.ID })
			switch {
			case i < 0:
				out = append(out, d)
			case out[i].Version < d.Version:
				out[i] = d
			}
		}
	}
	if !answered {
		return nil, errors.Join(fmt.Errorf("declarations: %w: no data site answers", domain.ErrUnavailable), why)
	}
	slices.SortFunc(out, func(a, b api.Declaration) int { return b.Opened.Compare(a.Opened) })
	return out, nil
}

// inMesh opens the connection for one command, within its timeout.
func inMesh(cmd *cobra.Command, r *remote, f func(ctx context.Context, mesh *bus.Mesh) error) error {
	_, mesh, err := r.open(cmd.Context())
	if err != nil {
		return err
	}
	defer mesh.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), r.timeout)
	defer cancel()
	return f(ctx, mesh)
}

func declarationList(cmd *cobra.Command, r *remote) error {
	return inMesh(cmd, r, func(ctx context.Context, mesh *bus.Mesh) error {
		all, err := askDeclarations(ctx, mesh)
		if err != nil {
			return err
		}
		if r.output == "json" {
			return printJSON(cmd.OutOrStdout(), api.DeclarationList{Declarations: all})
		}
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tLOST\tLED BY\tSTATE\tSINCE\tGROUPS")
		for _, d := range all {
			var groups []string
			for _, g := range d.Groups {
				groups = append(groups, string(g.Group)+" "+g.State)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, d.Site, d.Leader, d.State, d.Since.Format(time.RFC3339), strings.Join(groups, ", "))
		}
		return w.Flush()
	})
}

// findDeclaration asks the site that leads a declaration for it, or takes a copy where that site does not answer.
func findDeclaration(ctx context.Context, mesh *bus.Mesh, id domain.DeclarationID) (api.Declaration, *bus.Conn, error) {
	all, err := askDeclarations(ctx, mesh)
	if err != nil {
		return api.Declaration{}, nil, err
	}
	i := slices.IndexFunc(all, func(d api.Declaration) bool { return d.ID == id })
	if i < 0 {
		return api.Declaration{}, nil, fmt.Errorf("declaration %s: %w: see holdfast declaration list", id, domain.ErrNotFound)
	}
	conn, err := mesh.Conn(all[i].Leader)
	if err != nil || !conn.Connected() {
		return all[i], nil, err
	}
	d, err := bus.Call[api.Declaration](ctx, conn, api.ServiceFailover, api.VerbDeclarationShow, api.DeclarationShowRequest{ID: id})
	if err != nil {
		return all[i], nil, err
	}
	return d, conn, nil
}

func declarationShow(cmd *cobra.Command, r *remote, id domain.DeclarationID) error {
	return inMesh(cmd, r, func(ctx context.Context, mesh *bus.Mesh) error {
		d, conn, err := findDeclaration(ctx, mesh, id)
		if d.ID == "" {
			return err
		}
		if perr := printDeclaration(cmd.OutOrStdout(), r, d); perr != nil {
			return perr
		}
		if conn == nil {
			return fmt.Errorf("declaration %s is a copy, and %w: site %s, which leads it, does not answer", id, errPartial, d.Leader)
		}
		return nil
	})
}

func declarationWord(cmd *cobra.Command, r *remote, verb string, id domain.DeclarationID, w *wordFlags) error {
	return inMesh(cmd, r, func(ctx context.Context, mesh *bus.Mesh) error {
		d, conn, err := findDeclaration(ctx, mesh, id)
		if err == nil && conn == nil {
			err = fmt.Errorf("declaration %s: %w: site %s, which leads it, does not answer: approve there, or holdfast declaration open %s --at another site", id, domain.ErrUnavailable, d.Leader, d.Site)
		}
		if err != nil {
			return err
		}
		sayWho(&w.by, &w.host)
		req := api.DeclarationWordRequest{ID: id, Groups: w.ids(), AcceptLoss: w.acceptLoss, Why: w.why, By: w.by, Host: w.host, Epochs: map[domain.GroupID]domain.Epoch{}}
		for _, g := range d.Groups {
			req.Epochs[g.Group] = g.Epoch // a word is for what was looked at
		}
		if d, err = bus.Call[api.Declaration](ctx, conn, api.ServiceFailover, verb, req); err != nil {
			return err
		}
		return printDeclaration(cmd.OutOrStdout(), r, d)
	})
}

func declarationOpen(cmd *cobra.Command, r *remote, lost domain.SiteID, w *wordFlags) error {
	return inMesh(cmd, r, func(ctx context.Context, mesh *bus.Mesh) error {
		sites := []domain.SiteID{domain.SiteID(w.at)}
		if w.at == "" {
			var err error
			if sites, err = heirs(ctx, mesh, lost, w.ids()); err != nil {
				return err
			}
		}
		sayWho(&w.by, &w.host)
		for _, site := range sites {
			conn, err := atSite(mesh, string(site))
			if err != nil {
				return err
			}
			d, err := bus.Call[api.Declaration](ctx, conn, api.ServiceFailover, api.VerbDeclarationOpen,
				api.DeclarationOpenRequest{Site: lost, Groups: w.ids(), AcceptLoss: w.acceptLoss, Why: w.why, By: w.by, Host: w.host})
			if err != nil {
				return err
			}
			if err := printDeclaration(cmd.OutOrStdout(), r, d); err != nil {
				return err
			}
		}
		return nil
	})
}

// heirs are the sites that would take groups of a lost one over, of those that answer.
func heirs(ctx context.Context, mesh *bus.Mesh, lost domain.SiteID, only []domain.GroupID) ([]domain.SiteID, error) {
	gone := []domain.SiteID{lost}
	var list api.GroupList
	known, why := false, error(nil)
	for _, site := range mesh.Sites() {
		conn, err := mesh.Conn(site)
		if err != nil {
			return nil, err
		}
		if site == lost {
			continue
		}
		if !conn.Connected() {
			gone = append(gone, site)
			continue
		}
		if known {
			continue
		}
		got, err := bus.Call[api.GroupList](ctx, conn, api.ServiceFailover, api.VerbGroupList, api.Empty{})
		if err == nil {
			list, known = got, true
		} else if !bus.Unanswered(err) {
			why = errors.Join(why, err)
		}
	}
	if !known {
		return nil, errors.Join(fmt.Errorf("groups of site %s: %w: no data site answers", lost, domain.ErrUnavailable), why)
	}
	var out []domain.SiteID
	for _, g := range list.Groups {
		heir := policy.Heir(g.Group, lost, slices.Concat(gone, list.Drained()))
		if g.Site == lost && heir != "" && (len(only) == 0 || slices.Contains(only, g.Group.ID)) && !slices.Contains(out, heir) {
			out = append(out, heir)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("open declaration of the loss of site %s: %w: no site that answers has a copy of a group of it", lost, domain.ErrRefused)
	}
	return out, nil
}

func printDeclaration(out io.Writer, r *remote, d api.Declaration) error {
	if r.output == "json" {
		return printJSON(out, d)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "declaration\t%s\nlost site\t%s\nled by\t%s\nstate\t%s since %s\n", d.ID, d.Site, d.Leader, d.State, d.Since.Format(time.RFC3339))
	if d.Proof.Text != "" {
		fmt.Fprintf(w, "evidence\t%s\n", d.Proof.Text)
	}
	if d.Proof.Event != "" {
		fmt.Fprintf(w, "event\t%s, first missed %s\n", d.Proof.Event, d.Proof.FirstMissed.Format(time.RFC3339Nano))
	}
	if len(d.Votes) > 0 {
		fmt.Fprintf(w, "votes\t%s\n", votesText(d.Votes))
	}
	fmt.Fprintln(w, "\nGROUP\tTIER\tPOLICY\tHOLD-DOWN\tSTATE\tAPPROVED\tLOSS\tFITS\tWHY")
	for _, g := range d.Groups {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", g.Group, g.Tier, g.Policy, time.Duration(g.HoldDownNs), g.State, approvedText(g), lossText(g), fitsText(g), g.Why)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, g := range d.Groups {
		if g.Survey == nil {
			continue
		}
		for _, n := range g.Survey.NotFit {
			fmt.Fprintf(out, "group %s (tier %d) would not be whole: %s\n", g.Group, g.Tier, n)
		}
	}
	w = tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nAT\tWHAT\tGROUPS\tBY\tWHY")
	for _, a := range d.Acts {
		who := a.By
		if a.Claimed != "" && a.Claimed != a.By {
			who += " (" + a.Claimed + ")"
		}
		var groups []string
		for _, g := range a.Groups {
			groups = append(groups, string(g))
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", a.At.Format(time.RFC3339), a.What, strings.Join(groups, ", "), who, a.Why)
	}
	return w.Flush()
}

// votesText is how many votes answer, and whose.
func votesText(votes []api.VoterStatus) string {
	have, total := 0, 0
	var names, silent []string
	for _, v := range votes {
		total += v.Weight
		if v.Reachable {
			have += v.Weight
			names = append(names, v.ID)
		} else {
			silent = append(silent, v.ID)
		}
	}
	text := fmt.Sprintf("%d of %d: %s", have, total, strings.Join(names, ", "))
	if len(silent) > 0 {
		text += "; not " + strings.Join(silent, ", ")
	}
	if 2*have <= total {
		text += ": no majority, nothing can be taken over"
	}
	return text
}

func approvedText(g api.DeclaredGroup) string {
	if g.Needed == 0 && len(g.Approvals) == 0 {
		return "not needed"
	}
	var who []string
	for _, a := range g.Approvals {
		name := a.By
		if a.Claimed != "" && a.Claimed != a.By {
			name += " (" + a.Claimed + ")"
		}
		who = append(who, name)
	}
	text := fmt.Sprintf("%d of %d", len(who), g.Needed)
	if len(who) > 0 {
		text += ": " + strings.Join(who, ", ")
	}
	return text
}

func lossText(g api.DeclaredGroup) string {
	if g.Survey == nil {
		return "-"
	}
	l := g.Survey.Loss
	if l.Known && !l.AtLeast { // else the text has them
		return fmt.Sprintf("%s (%d writes)", l.Text, l.Writes)
	}
	return l.Text
}

func fitsText(g api.DeclaredGroup) string {
	if g.Survey == nil {
		return "-"
	}
	all := len(g.Survey.Fit) + len(g.Survey.NotFit)
	return fmt.Sprintf("%d of %d VMs", len(g.Survey.Fit), all)
}

// policyText is who decides that a group is taken over.
func policyText(g domain.Group) string {
	text := string(g.Failover)
	switch {
	case g.Failover == domain.FailoverConfirm:
		text += fmt.Sprintf(" by %d", max(1, g.Approvers))
	case len(g.Automatic.Windows) > 0:
		var when []string
		for _, w := range g.Automatic.Windows {
			var days []string
			for _, d := range w.Days {
				days = append(days, string(d))
			}
			when = append(when, strings.TrimSpace(strings.Join(days, ",")+" "+string(w.From)+"-"+string(w.To)))
		}
		text += " in " + strings.Join(when, "; ")
	}
	if g.Automatic.PerDay > 0 {
		text += fmt.Sprintf(", %d a day", g.Automatic.PerDay)
	}
	return text
}
