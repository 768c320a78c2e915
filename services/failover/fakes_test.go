package failover

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func (s *fakeSite) index() int { return int(s.id[0]-'a') + 1 }

func (s *fakeSite) leaseOf(g domain.GroupID) api.Lease {
	l := s.w.lease[g]
	if s.forgotten { // its quorum service was started again
		return api.Lease{Group: g, Holder: l.holder, Epoch: l.epoch, InSync: l.inSync, Phase: "idle"}
	}
	out := api.Lease{Group: g, Held: l.holder == s.id, Holder: l.holder, Epoch: l.epoch, InSync: l.inSync}
	if l.holder != "" {
		out.RemainingNs = int64(5 * time.Second)
	}
	return out
}

func (s *fakeSite) quorum() map[string]bus.Endpoint {
	return map[string]bus.Endpoint{
		api.VerbLease: bus.Answer(func(_ context.Context, r api.LeaseRequest) (api.Lease, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			l := s.leaseOf(r.Group)
			l.Held = l.Held && (r.Epoch == 0 || r.Epoch == l.Epoch)
			return l, nil
		}),
		api.VerbCampaign: bus.Answer(func(ctx context.Context, r api.CampaignRequest) (api.Lease, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			if s.dying { // it takes the candidacy with it, and is there again
				s.dying, s.forgotten = false, true
				s.w.mu.Unlock()
				<-ctx.Done()
				s.w.mu.Lock()
				return api.Lease{}, ctx.Err()
			}
			s.forgotten = false
			l := s.w.lease[r.Group]
			if l.holder == s.id && l.epoch > r.Above {
				return s.leaseOf(r.Group), nil
			}
			if l.holder != "" && l.holder != s.id || l.reserved != "" && l.reserved != s.id {
				return api.Lease{}, fmt.Errorf("group %s: %w: held by %q, reserved for %q", r.Group, domain.ErrNoQuorum, l.holder, l.reserved)
			}
			if !slices.Contains(l.inSync, s.id) && !r.AcceptLoss {
				return api.Lease{}, fmt.Errorf("group %s: %w: site %s is not in sync", r.Group, domain.ErrRefused, s.id)
			}
			l.holder, l.reserved, l.epoch = s.id, "", l.epoch.Next(s.index())
			s.w.effect("acquire %s at %s above %s", r.Group, s.id, l.epoch-256)
			return s.leaseOf(r.Group), nil
		}),
		api.VerbStatus: bus.Answer(func(context.Context, api.Empty) (api.QuorumStatus, error) {
			return api.QuorumStatus{Site: s.id, Voters: []api.VoterStatus{{ID: "a", Site: "a", Kind: "node", Weight: 1}, {ID: "b", Site: "b", Kind: "node", Weight: 1, Reachable: true}}}, nil
		}),
		api.VerbRelease: bus.Answer(func(_ context.Context, r api.ReleaseRequest) (api.Empty, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			if l := s.w.lease[r.Group]; l.holder == s.id && l.epoch == r.Epoch {
				l.holder, l.reserved = "", r.Successor
				s.w.effect("release %s at %s %s", r.Group, s.id, r.Epoch)
			}
			return api.Empty{}, nil
		}),
	}
}

func (s *fakeSite) replicator() map[string]bus.Endpoint {
	disks := func(g domain.GroupID, e domain.Epoch) []api.Disk {
		return []api.Disk{{Volume: "data", URL: fmt.Sprintf("iscsi://127.0.0.1:1/%s.%d/0", g, e)}}
	}
	return map[string]bus.Endpoint{
		api.VerbPromote: bus.Answer(func(_ context.Context, r api.PromoteRequest) (api.PromoteReply, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			if gone := s.goingBack; gone != nil && r.Checkpoint != 0 { // however often it is asked
				s.backTo = r.Checkpoint
				s.w.mu.Unlock()
				<-gone
				s.w.mu.Lock()
				s.backTo = 0
			}
			if s.broken == r.Group {
				return api.PromoteReply{}, fmt.Errorf("promote group %s: its journal is broken: %w", r.Group, domain.ErrRefused)
			}
			if s.epoch[r.Group] != r.Epoch {
				if s.lived[r.Group] >= r.Epoch {
					return api.PromoteReply{}, fmt.Errorf("promote group %s: %w: the journal has lived through epoch %s", r.Group, domain.ErrStaleEpoch, s.lived[r.Group])
				}
				s.lived[r.Group] = r.Epoch
				if s.at == nil {
					s.at, s.decided = map[domain.GroupID]domain.LSN{}, map[domain.GroupID]string{}
				}
				s.at[r.Group], s.decided[r.Group] = r.Checkpoint, r.Decision
				s.w.effect("promote %s at %s %s", r.Group, s.id, r.Epoch)
				s.epoch[r.Group] = r.Epoch
			}
			return api.PromoteReply{Group: r.Group, Epoch: r.Epoch, Disks: disks(r.Group, r.Epoch)}, nil
		}),
		api.VerbDemote: bus.Answer(func(_ context.Context, r api.DemoteRequest) (api.DemoteReply, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			if s.w.refuseDemote {
				return api.DemoteReply{}, fmt.Errorf("demote group %s: %w: site %s does not catch up", r.Group, domain.ErrRefused, r.Successor)
			}
			if s.epoch[r.Group] != 0 {
				s.w.effect("demote %s at %s %s", r.Group, s.id, r.Epoch)
				s.epoch[r.Group] = 0
				s.w.lease[r.Group].inSync = []domain.SiteID{s.id, r.Successor}
			}
			return api.DemoteReply{LastLSN: 7}, nil
		}),
		api.VerbProtect: bus.Answer(func(_ context.Context, r api.ProtectRequest) (api.Empty, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			if s.stopping { // it gives up serving before the run is at its end
				s.stopping, s.epoch[r.Group] = false, 0
				return api.Empty{}, fmt.Errorf("protect group %s: %w: not primary here", r.Group, domain.ErrStaleEpoch)
			}
			return api.Empty{}, nil
		}),
		api.VerbEstimate: bus.Answer(func(ctx context.Context, r api.EstimateRequest) (api.LossEstimate, error) {
			if s.w.hangs {
				<-ctx.Done()
				return api.LossEstimate{}, ctx.Err()
			}
			if r.Checkpoint > 100 {
				return api.LossEstimate{}, fmt.Errorf("checkpoint %d: %w", r.Checkpoint, domain.ErrNotFound)
			}
			return api.LossEstimate{Known: true, Text: "3.2 s, 41 MB"}, nil
		}),
		api.VerbStatus: bus.Answer(func(_ context.Context, r api.GroupRequest) (api.ReplicatorStatus, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			out := api.ReplicatorStatus{Site: s.id}
			for _, g := range s.w.group {
				if r.Group == "" || r.Group == g.ID {
					out.Groups = append(out.Groups, s.copyOf(g.ID, disks))
				}
			}
			return out, nil
		}),
	}
}

// copyOf is the site's copy of a group; w.mu is held.
func (s *fakeSite) copyOf(g domain.GroupID, disks func(domain.GroupID, domain.Epoch) []api.Disk) api.GroupStatus {
	e := s.epoch[g]
	st := api.GroupStatus{GoingBackTo: s.backTo, Group: g, Role: domain.RoleTarget, Epoch: e, Serving: e != 0, Disks: disks(g, e)}
	if lived := s.lived[g]; lived != 0 {
		st.Lineage = []api.LineageEntry{{Epoch: lived, Site: s.id}}
	}
	if e != 0 {
		st.Role = domain.RolePrimary
		for _, o := range slices.Sorted(maps.Keys(s.w.nats)) {
			if o != s.id {
				st.Targets = append(st.Targets, api.TargetStatus{Site: o, State: api.TargetStreaming})
			}
		}
	}
	return st
}

func (s *fakeSite) names() map[string]bus.Endpoint {
	return map[string]bus.Endpoint{
		api.VerbLookup: bus.Answer(func(_ context.Context, r api.DNSLookup) (api.DNSRecord, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			rec, ok := s.records[strings.TrimSuffix(r.Name, ".")]
			if !ok {
				return rec, fmt.Errorf("name %s: %w", r.Name, domain.ErrNotFound)
			}
			return rec, nil
		}),
		api.VerbChange: bus.Answer(func(_ context.Context, r api.DNSChange) (api.DNSChanged, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			name := strings.TrimSuffix(r.Name, ".")
			rec := s.records[name]
			if rec.Value != r.Old && rec.Value != r.New {
				return api.DNSChanged{}, fmt.Errorf("name %s: %w: it holds %q", name, domain.ErrConflict, rec.Value)
			}
			if rec.Epoch != r.Epoch {
				s.w.effect("change %s at %s %s", name, s.id, r.Epoch)
			}
			s.records[name] = api.DNSRecord{Name: name, Value: r.New, Epoch: r.Epoch}
			for _, o := range s.w.sites { // the name services merge
				o.records[name] = s.records[name]
			}
			return api.DNSChanged{Name: name, Before: rec.Value, After: r.New}, nil
		}),
	}
}

func (s *fakeSite) health() map[string]bus.Endpoint {
	return map[string]bus.Endpoint{api.VerbStatus: bus.Answer(func(context.Context, api.Empty) (api.HealthStatus, error) {
		s.w.mu.Lock()
		defer s.w.mu.Unlock()
		s.told++
		st := api.HealthStatus{Site: s.id}
		for o, lost := range s.disaster {
			if !lost {
				st.View.Observations = append(st.View.Observations, api.Observation{Kind: "site", ID: string(o), Site: o, State: api.StateAlive})
			} else {
				st.Assessments = append(st.Assessments, api.Assessment{Site: o, Class: api.ClassDisaster, Text: "site " + string(o) + " is lost"})
			}
		}
		for h, dead := range s.deadHost {
			if dead {
				st.View.Observations = append(st.View.Observations, api.Observation{Kind: "host", ID: string(h), Site: s.id, State: api.StateDead})
			}
		}
		for h := range s.aliveHost {
			st.View.Observations = append(st.View.Observations, api.Observation{Kind: "host", ID: string(h), Site: s.id, State: api.StateAlive})
		}
		return st, nil
	})}
}

// halt ends a VM; w.mu is held.
func (s *fakeSite) halt(h *fakeHost, vm *fakeVM) {
	if !up(vm.HostVM) {
		return
	}
	vm.State = "stopped"
	_ = vm.srv.Close()
	if s.w.running[vm.VM] == string(h.id) {
		delete(s.w.running, vm.VM)
	}
}

func (s *fakeSite) host(h *fakeHost) map[string]bus.Endpoint {
	return map[string]bus.Endpoint{
		api.VerbStart: bus.Answer(func(_ context.Context, r api.HostStartRequest) (api.HostVM, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			have := h.vms[r.VM]
			if have != nil && have.Epoch > r.Epoch {
				return api.HostVM{}, fmt.Errorf("vm %s: %w", r.VM, domain.ErrStaleEpoch)
			}
			if have != nil && have.Epoch == r.Epoch && up(have.HostVM) {
				return have.HostVM, nil
			}
			if s.vanishing {
				s.vanishing, s.epoch[r.Group] = false, 0
			}
			if s.epoch[r.Group] != r.Epoch {
				return api.HostVM{}, fmt.Errorf("vm %s: log in to its volume: %w", r.VM, domain.ErrUnavailable)
			}
			if at := s.w.running[r.VM]; at != "" {
				s.w.t.Errorf("vm %s is started on %s while it runs on %s", r.VM, h.id, at)
			}
			return s.boot(h, r)
		}),
		api.VerbStop: bus.Answer(func(_ context.Context, r api.HostStopRequest) (api.Empty, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			if vm := h.vms[r.VM]; vm != nil {
				if r.Epoch < vm.Epoch {
					return api.Empty{}, fmt.Errorf("vm %s: %w", r.VM, domain.ErrStaleEpoch)
				}
				s.halt(h, vm)
			}
			return api.Empty{}, nil
		}),
		api.VerbStatus: bus.Answer(func(context.Context, api.Empty) (api.HostStatus, error) {
			s.w.mu.Lock()
			defer s.w.mu.Unlock()
			st := api.HostStatus{Site: s.id, Host: h.id}
			for _, vm := range h.vms {
				st.VMs = append(st.VMs, vm.HostVM)
			}
			return st, nil
		}),
	}
}

func (s *fakeSite) boot(h *fakeHost, r api.HostStartRequest) (api.HostVM, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(r.Address, fmt.Sprint(r.Port)))
	if err != nil {
		return api.HostVM{}, fmt.Errorf("vm %s: %w: %w", r.VM, domain.ErrUnavailable, err)
	}
	vm := &fakeVM{HostVM: api.HostVM{VM: r.VM, Group: r.Group, Epoch: r.Epoch, State: "running", Address: r.Address, Port: r.Port},
		srv: &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/status" && req.Header.Get("traceparent") == "" {
				http.Error(rw, "no traceparent", http.StatusBadRequest)
				return
			}
			_, _ = rw.Write([]byte(`{"ok":true}`))
		})}}
	go func() { _ = vm.srv.Serve(l) }()
	h.vms[r.VM] = vm
	s.w.running[r.VM] = string(h.id)
	s.w.effect("start %s on %s %s", r.VM, h.id, r.Epoch)
	return vm.HostVM, nil
}

// serveDNS answers for the site's records.
func (s *fakeSite) serveDNS(ctx context.Context) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		s.w.t.Fatal(err)
	}
	s.dns = c.LocalAddr().String()
	context.AfterFunc(ctx, func() { _ = c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			var q dnsmessage.Message
			if q.Unpack(buf[:n]) != nil || len(q.Questions) != 1 {
				continue
			}
			q.Response = true
			s.w.mu.Lock()
			rec := s.records[strings.TrimSuffix(q.Questions[0].Name.String(), ".")]
			s.w.mu.Unlock()
			if ip, err := netip.ParseAddr(rec.Value); err == nil {
				q.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
					Body: &dnsmessage.AResource{A: ip.As4()}}}
			}
			if out, err := q.Pack(); err == nil {
				_, _ = c.WriteTo(out, from)
			}
		}
	}()
}
