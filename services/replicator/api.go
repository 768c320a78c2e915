package replicator

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/group"
)

// endpoints answers the verbs of api/replicator.go and api/rejoin.go.
func (s *service) endpoints() map[string]bus.Endpoint {
	return map[string]bus.Endpoint{
		api.VerbPromote: bus.Answer(func(ctx context.Context, r api.PromoteRequest) (api.PromoteReply, error) {
			return with(s, r.Group, func(g *group.Group) (api.PromoteReply, error) {
				out, err := g.Promote(ctx, r)
				s.record(ctx, "promote", r.Group, r.Epoch, r.RunID, r, err)
				return out, err
			})
		}),
		api.VerbDemote: bus.Answer(func(ctx context.Context, r api.DemoteRequest) (api.DemoteReply, error) {
			return with(s, r.Group, func(g *group.Group) (api.DemoteReply, error) {
				out, err := g.Demote(ctx, r)
				s.record(ctx, "demote", r.Group, r.Epoch, "", r, err)
				return out, err
			})
		}),
		api.VerbFence: bus.Answer(func(ctx context.Context, r api.FenceRequest) (api.Empty, error) {
			return with(s, r.Group, func(g *group.Group) (api.Empty, error) { return api.Empty{}, g.Fence(ctx, r.Epoch) })
		}),
		api.VerbProtect: bus.Answer(func(ctx context.Context, r api.ProtectRequest) (api.Empty, error) {
			return with(s, r.Group, func(g *group.Group) (api.Empty, error) { return api.Empty{}, g.Protect(ctx, r.Epoch) })
		}),
		api.VerbEstimate: bus.Answer(func(_ context.Context, r api.EstimateRequest) (api.LossEstimate, error) {
			return with(s, r.Group, func(g *group.Group) (api.LossEstimate, error) { return g.EstimateAt(r.Checkpoint) })
		}),
		api.VerbRejoin: bus.Answer(func(ctx context.Context, r api.RejoinRequest) (api.RejoinReply, error) {
			return with(s, r.Group, func(g *group.Group) (api.RejoinReply, error) { return g.Rejoin(ctx, r) })
		}),
		api.VerbUnfollow: bus.Answer(func(ctx context.Context, r api.UnfollowRequest) (api.Empty, error) {
			return with(s, r.Group, func(g *group.Group) (api.Empty, error) { return api.Empty{}, g.Unfollow(ctx, r) })
		}),
		api.VerbResyncBegin: bus.Answer(func(ctx context.Context, r api.ResyncBegin) (api.ResyncBegun, error) {
			return with(s, r.Group, func(g *group.Group) (api.ResyncBegun, error) { return g.ResyncBegin(ctx, r) })
		}),
		api.VerbResyncCommit: bus.Answer(func(ctx context.Context, r api.ResyncCommit) (api.Empty, error) {
			return with(s, r.Group, func(g *group.Group) (api.Empty, error) { return api.Empty{}, g.ResyncCommit(ctx, r) })
		}),
		api.VerbCheckpointList: bus.Answer(func(_ context.Context, r api.GroupRequest) (api.CheckpointList, error) {
			return with(s, r.Group, func(g *group.Group) (api.CheckpointList, error) { return g.Checkpoints(), nil })
		}),
		api.VerbCheckpointCreate: bus.Answer(func(ctx context.Context, r api.CheckpointCreateRequest) (api.Checkpoint, error) {
			return with(s, r.Group, func(g *group.Group) (api.Checkpoint, error) { return g.Mark(ctx, r) })
		}),
		api.VerbCheckpointOpen: bus.Answer(func(ctx context.Context, r api.CheckpointOpenRequest) (api.CheckpointOpened, error) {
			return with(s, r.Group, func(g *group.Group) (api.CheckpointOpened, error) { return g.OpenCheckpoint(ctx, r) })
		}),
		api.VerbCheckpointClose: bus.Answer(func(ctx context.Context, r api.CheckpointRequest) (api.Empty, error) {
			return with(s, r.Group, func(g *group.Group) (api.Empty, error) { return api.Empty{}, g.CloseCheckpoint(ctx, r.Checkpoint) })
		}),
		api.VerbCheckpointRead: bus.Answer(func(_ context.Context, r api.CheckpointReadRequest) (api.CheckpointPiece, error) {
			return with(s, r.Group, func(g *group.Group) (api.CheckpointPiece, error) { return g.ReadCheckpoint(r) })
		}),
		api.VerbQuarantine:        bus.Answer(s.quarantine),
		api.VerbQuarantineRead:    bus.Answer(s.quarantineRead),
		api.VerbQuarantineDiscard: bus.Answer(s.quarantineDiscard),
		api.VerbVolumeDiscard:     bus.Answer(s.volumeDiscard),
		api.VerbVerify:            bus.Answer(s.verify),
		api.VerbVerifyHash: bus.Answer(func(ctx context.Context, r api.VerifyHash) (api.VerifySums, error) {
			return with(s, r.Group, func(g *group.Group) (api.VerifySums, error) { return g.VerifyHash(ctx, r) })
		}),
		api.VerbVerifyExact: bus.Answer(func(ctx context.Context, r api.VerifyExact) (api.VerifySums, error) {
			return with(s, r.Group, func(g *group.Group) (api.VerifySums, error) { return g.VerifyExact(ctx, r) })
		}),
		api.VerbWrites: bus.Answer(s.writes),
		api.VerbSurvey: bus.Answer(s.survey),
		api.VerbStatus: bus.Answer(s.status),
	}
}

func with[T any](s *service, id domain.GroupID, f func(*group.Group) (T, error)) (T, error) {
	g, err := s.find(id)
	if err != nil {
		var none T
		return none, err
	}
	return f(g)
}

func (s *service) resyncData(_ context.Context, data []byte) ([]byte, error) {
	return s.resync(data, func(g *group.Group) ([]byte, error) { return nil, g.ResyncData(data) })
}

func (s *service) resyncHash(_ context.Context, data []byte) ([]byte, error) {
	return s.resync(data, func(g *group.Group) ([]byte, error) { return g.ResyncHash(data) })
}

// resync is for the group that a message of a resync names in its header.
func (s *service) resync(data []byte, f func(*group.Group) ([]byte, error)) ([]byte, error) {
	id, err := group.ResyncGroup(data)
	if err != nil {
		return nil, err
	}
	return with(s, id, f)
}

func (s *service) all(id domain.GroupID) []*group.Group {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*group.Group
	for have, g := range s.groups {
		if id == "" || id == have {
			out = append(out, g)
		}
	}
	return out
}

// owed is how many bytes resyncs to here will take yet.
func (s *service) owed() (n int64) {
	for _, g := range s.all("") {
		n += g.Owed()
	}
	return n
}

// status tells every group asked for, those that could not be opened too.
func (s *service) status(_ context.Context, r api.GroupRequest) (api.ReplicatorStatus, error) {
	out := api.ReplicatorStatus{Site: s.cfg.Site, Groups: s.groupStatus(r.Group)}
	if err := s.noLines.get(); err != nil {
		out.NoLines = err.Error()
	}
	return out, nil
}

// writes tells how much each group asked for writes.
func (s *service) writes(_ context.Context, r api.GroupRequest) (api.WritesReply, error) {
	reply := api.WritesReply{Site: s.cfg.Site, Groups: []api.GroupWrites{}}
	for _, g := range s.all(r.Group) {
		reply.Groups = append(reply.Groups, g.Writes())
	}
	slices.SortFunc(reply.Groups, func(a, b api.GroupWrites) int { return strings.Compare(string(a.Group), string(b.Group)) })
	return reply, nil
}

// groupStatus is the status of a group, or with none named of every one.
func (s *service) groupStatus(only domain.GroupID) []api.GroupStatus {
	out := []api.GroupStatus{}
	for _, g := range s.all(only) {
		out = append(out, g.Status())
	}
	s.mu.Lock()
	for id, err := range s.faults {
		if only == "" || only == id {
			out = append(out, api.GroupStatus{Group: id, Role: domain.RoleIdle, Error: err.Error()})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(out, func(a, b api.GroupStatus) int { return strings.Compare(string(a.Group), string(b.Group)) })
	return out
}

// record keeps in the audit who had a group promoted or demoted here, or was refused it.
func (s *service) record(ctx context.Context, verb string, g domain.GroupID, e domain.Epoch, run domain.RunID, req any, err error) {
	what := audit.Outcome(verb+"d", verb+"_refused", err)
	if what == "" {
		return
	}
	entry := audit.Entry{Who: audit.Who(ctx), Why: "asked by " + audit.Who(ctx), What: what + "." + string(g) + "." + e.String(), Run: run}
	if err != nil {
		entry.Why = err.Error()
	}
	entry.Data, _ = json.Marshal(req) // plain fields always encode
	audit.Note(ctx, s.deps.Mesh.Local(), s.log, entry)
}
