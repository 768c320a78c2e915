package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/services/failover/plan"
	"github.com/holdfast-dr/holdfast/services/failover/policy"
	"github.com/holdfast-dr/holdfast/services/failover/probe"
	"github.com/holdfast-dr/holdfast/services/failover/run"
)

// actor carries out the steps of runs by asking the other services.
type actor struct{ *service }

// Check implements run.Actor: from desired on, the own site must hold the lease of the epoch the run acquired.
func (a actor) Check(ctx context.Context, r api.Run, st api.Step) error {
	switch st.Kind {
	case plan.KindPrecheck, plan.KindEvacuate, plan.KindDemote, plan.KindRelease, plan.KindAcquire:
		return nil // the serving site's services check for themselves
	}
	epoch := r.Epochs[st.Group]
	l, err := a.lease(ctx, st.Group, epoch)
	if err != nil {
		return fmt.Errorf("check lease of group %s: %w", st.Group, err)
	}
	if !l.Held || epoch == 0 {
		return fmt.Errorf("check lease of group %s: %w: site %s does not hold epoch %s (newest seen: %s of %q)", st.Group, domain.ErrNoLease, a.cfg.Site, epoch, l.Epoch, l.Holder)
	}
	return nil
}

// Do implements run.Actor.
func (a actor) Do(ctx context.Context, r api.Run, st api.Step, intend run.Intend) (string, error) {
	g, err := a.store.Group(ctx, st.Group)
	if err != nil {
		return "", err
	}
	switch st.Kind {
	case plan.KindPrecheck, plan.KindEvacuate, plan.KindDemote, plan.KindRelease:
		return a.atSource(ctx, r, st)
	case plan.KindAcquire:
		return a.acquire(ctx, r, g)
	case plan.KindDesired:
		d, err := a.store.Move(ctx, st.Group, a.cfg.Site, r.Epochs[st.Group])
		if err == nil {
			a.copies.wake()
		}
		return asked(struct {
			Epoch   domain.Epoch `json:"epoch"`
			Version uint64       `json:"version"`
		}{d.Epoch, d.Version}, err)
	case plan.KindPromote:
		return asked(a.promote(ctx, r, g.Group))
	case plan.KindProtect:
		return asked(call[api.Empty](ctx, a.service, 2*a.cfg.Timings.Call, api.ServiceReplicator, api.VerbProtect,
			api.ProtectRequest{Group: st.Group, Epoch: r.Epochs[st.Group], RunID: r.ID}))
	}
	i := slices.IndexFunc(g.Group.VMs, func(v domain.VM) bool { return v.ID == st.VM })
	if i < 0 {
		return "", fmt.Errorf("step %s: vm %s of group %s: %w", st.ID, st.VM, st.Group, domain.ErrNotFound)
	}
	return a.doVM(ctx, r, st, g.Group, g.Group.VMs[i], intend)
}

func (a actor) doVM(ctx context.Context, r api.Run, st api.Step, g domain.Group, v domain.VM, intend run.Intend) (string, error) {
	switch st.Kind {
	case plan.KindStart:
		return a.startVM(ctx, r, st, v, intend)
	case plan.KindVerify:
		var started startResult
		if err := result(r, plan.ID(plan.KindStart, string(v.ID)), &started); err != nil {
			return "", err
		}
		address, port := a.where(v, started.VM)
		body, err := probe.Get(ctx, a.web, address, port, "/healthz")
		return asked(answered{Address: address, Body: body}, err)
	case plan.KindDNS:
		return a.changeName(ctx, r, st, g, v, intend)
	case plan.KindClient:
		return a.askAsClient(ctx, r, g, v)
	}
	return "", fmt.Errorf("step %s: %w: unknown kind %q", st.ID, domain.ErrInvalid, st.Kind)
}

// asked turns a reply into a step's result.
func asked[T any](v T, err error) (string, error) {
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(v)
	return string(raw), err
}

// result reads what an earlier step of the run left.
func result(r api.Run, id string, v any) error {
	i := slices.IndexFunc(r.Steps, func(s api.Step) bool { return s.ID == id })
	if i < 0 {
		return fmt.Errorf("result of step %s: %w", id, domain.ErrNotFound)
	}
	if err := json.Unmarshal([]byte(r.Steps[i].Result), v); err != nil {
		return fmt.Errorf("result of step %s: %w: %w", id, domain.ErrInvalid, err)
	}
	return nil
}

// precheck asks the serving site whether this site's copy could take over without loss.
func (a actor) precheck(ctx context.Context, r api.Run, g domain.GroupID) (string, error) {
	st, err := callPeer[api.ReplicatorStatus](ctx, a.service, r.From, a.cfg.Timings.Call, api.ServiceReplicator, api.VerbStatus, api.GroupRequest{Group: g})
	if err != nil {
		return "", fmt.Errorf("precheck group %s at site %s: %w", g, r.From, err)
	}
	have, t, err := policy.Ready(st.Groups, g, r.From, a.cfg.Site)
	if err != nil {
		return "", fmt.Errorf("precheck group %s: %w", g, err)
	}
	return asked(struct {
		Epoch  domain.Epoch `json:"epoch"`
		State  string       `json:"state"`
		InSync bool         `json:"in_sync"`
	}{have.Epoch, t.State, t.InSync}, nil)
}

func (a actor) acquire(ctx context.Context, r api.Run, d api.GroupDesired) (string, error) {
	g := d.Group
	if r.Kind == api.RunStart && d.Site != a.cfg.Site { // it was moved while this run was interrupted
		return "", fmt.Errorf("acquire group %s: %w: it is to run at site %s since epoch %s", g.ID, domain.ErrRefused, d.Site, d.Epoch)
	}
	if r.Kind != api.RunStart && d.Epoch > r.Before[g.ID] { // the loss this run was declared for is over
		return "", fmt.Errorf("acquire group %s: %w: site %s brought it up under epoch %s after this %s was started under epoch %s: start another if it is still wanted",
			g.ID, domain.ErrRefused, d.Site, d.Epoch, r.Kind, r.Before[g.ID])
	}
	if err := g.Barred(a.cfg.Site); err != nil { // its placement was changed since the run was laid out
		return "", fmt.Errorf("acquire group %s: %w", g.ID, err)
	}
	members := []domain.SiteID{g.Home}
	for _, t := range g.Targets {
		if t.Mode == domain.ModeSync {
			members = append(members, t.Site)
		}
	}
	l, err := a.campaign(ctx, api.CampaignRequest{
		Group: g.ID, AcceptLoss: r.AcceptLoss[g.ID], Estimate: r.Estimate[g.ID].Text, Reason: r.Kind + ": " + r.Reason, RunID: r.ID,
		Above: r.Above[g.ID], Members: members, TimeoutNs: int64(a.cfg.Timings.Campaign)})
	if err != nil {
		return "", fmt.Errorf("acquire group %s: %w", g.ID, err)
	}
	if !l.Held || l.Epoch <= r.Above[g.ID] {
		return "", fmt.Errorf("acquire group %s: %w: the quorum answered epoch %s, held %v", g.ID, domain.ErrNoQuorum, l.Epoch, l.Held)
	}
	return asked(l, nil)
}

// campaign asks the own site's quorum for the lease. A quorum service that dies takes the candidacy with it and never answers,
// so while the answer is awaited it is asked how the candidacy stands: domain.ErrUnavailable as soon as it knows of none.
func (a actor) campaign(ctx context.Context, req api.CampaignRequest) (api.Lease, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		idle := 0
		for clock.Sleep(ctx, a.cfg.Timings.Tick) == nil {
			l, err := a.lease(ctx, req.Group, 0)
			if err != nil || l.Phase != phaseIdle || l.Held && l.Epoch > req.Above {
				idle = 0
				continue
			}
			if idle++; idle > 1 { // not just before the candidacy began, or after its end
				cancel(fmt.Errorf("%w: the quorum service was started again and knows of no candidacy", domain.ErrUnavailable))
				return
			}
		}
	}()
	l, err := call[api.Lease](ctx, a.service, time.Duration(req.TimeoutNs)+a.cfg.Timings.Call, api.ServiceQuorum, api.VerbCampaign, req)
	if why := context.Cause(ctx); err != nil && why != nil {
		return l, why
	}
	return l, err
}

// phaseIdle is the phase of a group that nobody competes for at this site.
const phaseIdle = "idle"

// where a VM answers: what its host says, else its place in the configuration.
func (a actor) where(v domain.VM, started api.HostVM) (address string, port int) {
	address, port = v.Sites[a.cfg.Site].Address, v.Port
	if started.Address != "" {
		address = started.Address
	}
	if started.Port != 0 {
		port = started.Port
	}
	return address, port
}

type answered struct {
	Address string  `json:"address"`
	Name    string  `json:"name,omitempty"`
	Body    string  `json:"body,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
}

// dnsResult is the intent (Old) and the outcome of a name's change.
type dnsResult struct {
	Old string `json:"old"`
	api.DNSChanged
}

// changeName points a name at this site. What it swaps must be an address the VM has at one of its sites, or no record;
// anything else stays, and the name service refuses the swap.
func (a actor) changeName(ctx context.Context, r api.Run, st api.Step, g domain.Group, v domain.VM, intend run.Intend) (string, error) {
	address := v.Sites[a.cfg.Site].Address
	kind := "A"
	if ip, err := netip.ParseAddr(address); err != nil {
		return "", fmt.Errorf("change name %s: %w: vm %s has address %q at site %s", st.Name, domain.ErrInvalid, v.ID, address, a.cfg.Site)
	} else if ip.Is6() {
		kind = "AAAA"
	}
	var in dnsResult
	if st.Result == "" {
		old, err := a.oldAddress(ctx, r, st.Name, kind, v, address)
		if err != nil {
			return "", err
		}
		in.Old = old
		raw, err := asked(in, nil)
		if err != nil {
			return "", err
		}
		if err := intend(ctx, raw); err != nil {
			return "", err
		}
	} else if err := json.Unmarshal([]byte(st.Result), &in); err != nil {
		return "", fmt.Errorf("read intent of step %s: %w", st.ID, err)
	}
	out, err := call[api.DNSChanged](ctx, a.service, 5*a.cfg.Timings.Call, api.ServiceDNS, api.VerbChange, api.DNSChange{
		Name: st.Name, Type: kind, Old: in.Old, New: address, TTL: a.cfg.DNSTTL, Group: g.ID, Epoch: r.Epochs[g.ID], RunID: r.ID})
	if err != nil {
		return "", fmt.Errorf("change name %s: %w", st.Name, err)
	}
	in.DNSChanged = out
	in.Before = in.Old // a repeat would answer the new value
	return asked(in, nil)
}

func (a actor) oldAddress(ctx context.Context, r api.Run, name, kind string, v domain.VM, address string) (string, error) {
	rec, err := call[api.DNSRecord](ctx, a.service, a.cfg.Timings.Call, api.ServiceDNS, api.VerbLookup, api.DNSLookup{Name: name, Type: kind})
	switch {
	case errors.Is(err, domain.ErrNotFound):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look up name %s: %w", name, err)
	case rec.Value == "" || rec.Value == address:
		return rec.Value, nil
	}
	for _, p := range v.Sites {
		if p.Address == rec.Value {
			return rec.Value, nil
		}
	}
	return v.Sites[r.From].Address, nil // not ours: the swap will be refused
}

// askAsClient resolves the VM's first name at the site's authority and asks for its page: the first answered request.
func (a actor) askAsClient(ctx context.Context, r api.Run, g domain.Group, v domain.VM) (string, error) {
	began := time.Now()
	var started startResult
	if err := result(r, plan.ID(plan.KindStart, string(v.ID)), &started); err != nil {
		return "", err
	}
	out := answered{}
	address, port := a.where(v, started.VM)
	if len(v.DNS) > 0 && a.cfg.DNSAuthority != "" {
		configured, err := netip.ParseAddr(v.Sites[a.cfg.Site].Address)
		if err != nil {
			return "", fmt.Errorf("client of vm %s: %w: %w", v.ID, domain.ErrInvalid, err)
		}
		rctx, cancel := context.WithTimeout(ctx, a.cfg.Timings.Call)
		defer cancel()
		ip, err := probe.Resolve(rctx, a.cfg.DNSAuthority, v.DNS[0], configured.Is6())
		if err != nil {
			return "", err
		}
		if ip != configured {
			return "", fmt.Errorf("client of vm %s: %w: %s still points at %s", v.ID, domain.ErrUnavailable, v.DNS[0], ip)
		}
		out.Name, address = v.DNS[0], ip.String()
	}
	body, err := probe.Get(ctx, a.web, address, port, "/status")
	if err != nil {
		return "", err
	}
	out.Address, out.Body, out.Seconds = address, body, time.Since(began).Seconds()
	epoch := r.Epochs[g.ID]
	a.publish(ctx, fmt.Sprintf("%s-%d-%s-answered", v.ID, epoch, r.ID), event.VMChanged{Fact: "answered", Site: a.cfg.Site, Host: started.Host, VM: started.VM})
	return asked(out, nil)
}
