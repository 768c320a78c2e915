package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/site"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/whatif"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
)

// whatIfFlags are the flags of holdfast whatif.
type whatIfFlags struct {
	lose          []string
	single, pairs bool
	svg, at       string
}

func whatIfCommand() *cobra.Command {
	var r remote
	var f whatIfFlags
	c := &cobra.Command{
		Use: "whatif", Short: "Say what would happen if sites, voters or links were lost now", Args: exactly(0, "no argument"),
		Long: "Say what would happen if sites, voters or links were lost now: who keeps quorum, which groups move where, in what order and\n" +
			"after which hold-down, what would be lost, which VMs find no host, which names change, and why. The sites are asked how things\n" +
			"stand; nothing is touched. The code that decides in earnest decides here too. A link is cut both ways. Where a site does not\n" +
			"answer it counts as lost, and the exit code is 4. A loss in a maintenance window (holdfast health maintenance) moves nothing by\n" +
			"itself; --at says what comes of one after it. What is said of a group that is in a run now is not certain.",
		Example: "  holdfast whatif --lose site:a\n  holdfast whatif --lose voter:w --lose link:a-b --svg after.svg\n  holdfast whatif --all-single",
		RunE:    func(cmd *cobra.Command, _ []string) error { return whatIf(cmd, &r, f) },
	}
	r.flags(c)
	c.Flags().StringArrayVar(&f.lose, "lose", nil, "site:NAME, voter:NAME or link:NAME-NAME; may be given several times: all at once")
	c.Flags().BoolVar(&f.single, "all-single", false, "every single loss, a line each")
	c.Flags().BoolVar(&f.pairs, "all-pairs", false, "every two losses at once, a line each")
	c.Flags().StringVar(&f.at, "at", "", "when it is lost, as 2026-11-23T01:30:00Z: windows are as they will be then, the rest is as now")
	c.Flags().StringVar(&f.svg, "svg", "", "also write a picture to this file")
	return c
}

func whatIf(cmd *cobra.Command, r *remote, f whatIfFlags) error {
	if len(f.lose) > 0 && (f.single || f.pairs) || f.single && f.pairs || len(f.lose) == 0 && !f.single && !f.pairs {
		return fmt.Errorf("whatif: %w: give --lose, --all-single or --all-pairs", domain.ErrInvalid)
	}
	cfg, err := r.load()
	if err != nil {
		return err
	}
	cases, err := whatIfCases(site.QuorumPlan(cfg), f)
	if err != nil {
		return err
	}
	at, err := f.when(time.Now())
	if err != nil {
		return err
	}
	st, err := liveState(cmd.Context(), r)
	if err != nil {
		return err
	}
	st.At = at
	all := make([]whatif.Prediction, 0, len(cases))
	for _, losses := range cases {
		p, err := whatif.Predict(st, losses)
		if err != nil {
			return err
		}
		all = append(all, p)
	}
	if f.svg != "" {
		if err := os.WriteFile(f.svg, []byte(whatif.SVG(st, all)), 0o644); err != nil {
			return fmt.Errorf("write picture: %w", err)
		}
	}
	switch {
	case r.output == "json":
		err = printJSON(cmd.OutOrStdout(), map[string]any{"predictions": all})
	case len(f.lose) > 0:
		_, err = fmt.Fprint(cmd.OutOrStdout(), all[0].Text(true))
	default:
		_, err = fmt.Fprint(cmd.OutOrStdout(), whatif.Table(all))
	}
	return errors.Join(err, partly(st))
}

// when is the time of the loss. Errors wrap domain.ErrInvalid.
func (f whatIfFlags) when(now time.Time) (time.Time, error) {
	if f.at == "" {
		return now, nil
	}
	t, err := time.Parse(time.RFC3339, f.at)
	if err != nil || t.Before(now) {
		return t, fmt.Errorf("--at %q: %w: use a time to come, as 2026-11-23T01:30:00Z", f.at, domain.ErrInvalid)
	}
	return t.Local(), nil
}

// partly is an error for the exit code when sites did not answer.
func partly(st whatif.State) error {
	if len(st.Down) == 0 {
		return nil
	}
	return fmt.Errorf("the state is %w: not all of %v answered", errPartial, st.Down)
}

func whatIfCases(in planner.Input, f whatIfFlags) ([][]whatif.Loss, error) {
	switch {
	case f.pairs:
		return whatif.Pairs(whatif.All(in)), nil
	case f.single:
		var out [][]whatif.Loss
		for _, l := range whatif.All(in) {
			out = append(out, []whatif.Loss{l})
		}
		return out, nil
	}
	var losses []whatif.Loss
	for _, text := range f.lose {
		l, err := whatif.Parse(in, text)
		if err != nil {
			return nil, err
		}
		losses = append(losses, l)
	}
	return [][]whatif.Loss{losses}, nil
}

func explainCommand() *cobra.Command {
	var r remote
	c := parent(&cobra.Command{Use: "explain", Short: "Say why things are as they are"})
	r.flags(c)
	c.AddCommand(&cobra.Command{
		Use: "group GROUP", Short: "Say why a group is where it is, and why it can or cannot move now", Args: exactly(1, "one GROUP"),
		Long: "Say in one line, and then reason by reason, why a group is where it is and whether a planned move to each of its other sites\n" +
			"could begin now. The sites are asked how things stand; nothing is touched.",
		Example: "  holdfast explain group erp",
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := liveState(cmd.Context(), &r)
			if err != nil {
				return err
			}
			e, err := whatif.Explain(st, domain.GroupID(args[0]))
			if err != nil {
				return err
			}
			if r.output == "json" {
				err = printJSON(cmd.OutOrStdout(), e)
			} else {
				_, err = fmt.Fprint(cmd.OutOrStdout(), e.Text())
			}
			return errors.Join(err, partly(st))
		},
	})
	return c
}

// liveState asks every site how things stand.
func liveState(ctx context.Context, r *remote) (whatif.State, error) {
	cfg, mesh, err := r.open(ctx)
	if err != nil {
		return whatif.State{}, err
	}
	defer mesh.Close()
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	all, err := askSites(ctx, cfg, mesh)
	if err != nil {
		return whatif.State{}, err
	}
	st := whatif.State{Plan: site.QuorumPlan(cfg), Votes: map[domain.GroupID]whatif.Vote{}, Loss: map[domain.GroupID]map[domain.SiteID]api.LossEstimate{},
		Copies: map[domain.GroupID]map[domain.SiteID]api.GroupStatus{}, Runs: map[domain.GroupID]api.Run{}, Prevented: map[domain.SiteID]bool{}, Health: map[domain.SiteID]api.HealthStatus{}, Vantages: cfg.Health.Vantages, Unreached: map[domain.SiteID]map[core.VoterID]bool{}, At: time.Now()}
	found, why := false, error(nil)
	for _, s := range all {
		if !s.Reachable || s.Quorum == nil {
			st.Down = append(st.Down, s.Site)
			continue
		}
		noteVotes(&st, *s.Quorum)
		noteLinks(&st, s)
		noteVoters(&st, s)
		st.Prevented[s.Site] = s.Quorum.Prevented
		if s.Health != nil {
			st.Health[s.Site] = *s.Health
		}
		if s.Failover == nil {
			continue
		}
		if why = noteDesired(ctx, mesh, &st, s.Site, !found); why != nil {
			st.Down = append(st.Down, s.Site) // what it knows is not known
			continue
		}
		found = true
	}
	if !found {
		return st, errors.Join(fmt.Errorf("state of the groups: %w: no data site answers", domain.ErrUnavailable), why)
	}
	st.Cut = slices.DeleteFunc(st.Cut, func(l whatif.Loss) bool { // to one that is down there is no link to speak of
		return slices.Contains(st.Down, domain.SiteID(l.A)) || slices.Contains(st.Down, domain.SiteID(l.B))
	})
	for _, s := range all {
		noteCopies(ctx, mesh, &st, s)
	}
	return st, nil
}

// askSites asks every site at once for everything that status tells. One that hangs leaves half of the time for what comes after.
func askSites(ctx context.Context, cfg config.Config, mesh *bus.Mesh) ([]siteStatus, error) {
	all := make([]siteStatus, len(cfg.Sites))
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	var wg sync.WaitGroup
	for i, s := range cfg.Sites {
		conn, err := mesh.Conn(s.ID)
		if err != nil {
			return nil, err
		}
		wg.Go(func() { all[i] = askSite(ctx, conn, s) })
	}
	wg.Wait()
	return all, nil
}

// noteVotes takes over what a site knows of the votes: who holds a lease says so himself, and of the others the newest counts.
func noteVotes(st *whatif.State, q api.QuorumStatus) {
	for _, l := range q.Groups {
		have, known := st.Votes[l.Group]
		switch {
		case l.Held:
			have.Holder = q.Site
		case known && l.Epoch <= have.Epoch:
			continue
		}
		if l.Held || l.Epoch > have.Epoch {
			have.Epoch = l.Epoch
			have.Reg = core.Register{InSync: l.InSync, Config: planner.ConfigOf(l)}
		}
		st.Votes[l.Group] = have
	}
}

// noteLinks takes over which other sites a site has no way to: those that its health service takes for dead on every path.
func noteLinks(st *whatif.State, s siteStatus) {
	if s.Health == nil {
		return
	}
	for _, other := range st.Plan.Sites {
		l := whatif.Loss{Kind: whatif.LoseLink, A: string(min(s.Site, other.ID)), B: string(max(s.Site, other.ID))}
		if other.ID != s.Site && s.Health.View.Dead("site", string(other.ID), other.ID) && !slices.Contains(st.Cut, l) {
			st.Cut = append(st.Cut, l)
		}
	}
}

// noteVoters takes over which voters a site does not reach, of those that answer by no site's server.
func noteVoters(st *whatif.State, s siteStatus) {
	st.Unreached[s.Site] = map[core.VoterID]bool{}
	for _, v := range s.Quorum.Voters {
		if !v.Reachable && (v.Site == "" || core.Kind(v.Kind).Passive()) {
			st.Unreached[s.Site][core.VoterID(v.ID)] = true
		}
	}
}

// noteDesired takes over desired state from one site, and each site's runs.
func noteDesired(ctx context.Context, mesh *bus.Mesh, st *whatif.State, s domain.SiteID, first bool) error {
	conn, err := mesh.Conn(s)
	if err != nil {
		return err
	}
	if first {
		if st.List, err = bus.Call[api.GroupList](ctx, conn, api.ServiceFailover, api.VerbGroupList, api.Empty{}); err != nil {
			return err
		}
	}
	declared, err := bus.Call[api.DeclarationList](ctx, conn, api.ServiceFailover, api.VerbDeclarationList, api.Empty{})
	if err != nil {
		return err
	}
	for _, d := range declared.Declarations {
		if d.Leader == s {
			st.Declared = append(st.Declared, d)
		}
	}
	runs, err := bus.Call[api.RunList](ctx, conn, api.ServiceFailover, api.VerbRunList, api.Empty{})
	if err != nil {
		return err
	}
	noteRuns(st, s, runs.Runs)
	return nil
}

// noteRuns takes over the newest run of each group. A site's copy of a run that another leads may be behind: the leader's own counts.
func noteRuns(st *whatif.State, s domain.SiteID, runs []api.Run) {
	for _, run := range runs {
		for _, step := range run.Steps {
			have, ok := st.Runs[step.Group]
			if step.Group != "" && (!ok || run.Started.After(have.Started) || run.ID == have.ID && run.Leader == s) {
				st.Runs[step.Group] = run
			}
		}
	}
}

// noteCopies takes over what a site's copies are worth: of a target what its primary says it lacks, else what it says itself.
func noteCopies(ctx context.Context, mesh *bus.Mesh, st *whatif.State, s siteStatus) {
	if s.Replicator == nil {
		return
	}
	for _, g := range s.Replicator.Groups {
		if st.Copies[g.Group] == nil {
			st.Copies[g.Group] = map[domain.SiteID]api.GroupStatus{}
		}
		if st.Loss[g.Group] == nil {
			st.Loss[g.Group] = map[domain.SiteID]api.LossEstimate{}
		}
		st.Copies[g.Group][s.Site] = g
		for _, t := range g.Targets {
			st.Loss[g.Group][t.Site] = t.Loss
		}
		if _, told := st.Loss[g.Group][s.Site]; told || g.Role != domain.RoleTarget || slices.Contains(st.Down, s.Site) {
			continue
		}
		if conn, err := mesh.Conn(s.Site); err == nil {
			if e, err := bus.Call[api.LossEstimate](ctx, conn, api.ServiceReplicator, api.VerbEstimate, api.EstimateRequest{Group: g.Group}); err == nil {
				st.Loss[g.Group][s.Site] = e
			}
		}
	}
}
