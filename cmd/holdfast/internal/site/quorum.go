package site

import (
	"context"
	"path/filepath"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/quorum"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/objectvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/planner"
	"github.com/holdfast-dr/holdfast/services/quorum/witness"
)

func quorumService(cfg config.Config) service {
	qc := quorumConfig(cfg)
	return service{api.ServiceQuorum, func(ctx context.Context, d deps) error {
		qc.MirrorDir = voterMemory(cfg, d.log)
		qd := quorum.Deps{Mesh: d.mesh, Tracer: d.tracer, Logger: d.log, Metrics: d.metrics}
		creds, err := credentials(cfg, api.ServiceQuorum)
		if err != nil {
			return err
		}
		if creds != nil {
			qd.Certificate = creds.Certificate
		}
		return quorum.Run(ctx, qc, qd)
	}}
}

func quorumConfig(cfg config.Config) quorum.Config {
	self := cfg.Self()
	plan := QuorumPlan(cfg)
	qc := quorum.Config{Cluster: cfg.Cluster, Site: cfg.Site, Role: self.Role, Index: self.Index, Dir: filepath.Join(cfg.DataDir, "quorum"),
		Model: plan.Model, Timing: plan.Timing, Plan: plan}
	for _, s := range cfg.Sites {
		if s.Role == domain.SiteData && s.Index < self.Index {
			qc.Rank++
		}
	}
	for _, v := range plan.Voters {
		vote := quorum.Voter{Member: v.Member, Site: v.Site}
		switch v.Kind {
		case core.KindShare:
			vote.Path, vote.Local = cfg.Quorum.Share, cfg.Quorum.ShareLocal
		case core.KindDisk:
			vote.Path = cfg.Quorum.Disk
		case core.KindWitness:
			if cfg.Quorum.Witness != nil && v.ID == config.VoterWitness {
				vote.Witness = witness.At(*cfg.Quorum.Witness)
			}
		case core.KindObject:
			vote.Object = objectvoter.Config(*cfg.Quorum.Object)
		}
		qc.Voters = append(qc.Voters, vote)
	}
	return qc
}

// QuorumPlan is what a configuration tells the planner.
func QuorumPlan(cfg config.Config) planner.Input {
	in := planner.Input{From: cfg.Site, Model: modelOf(cfg.Quorum.Model), Timing: core.DefaultTiming(), Plans: cfg.Plans, RTO: map[domain.GroupID]time.Duration{}, Support: cfg.Support}
	if cfg.Timing == "fast" {
		in.Timing = core.FastTiming()
	}
	for _, s := range cfg.Sites {
		in.Sites = append(in.Sites, planner.Site{ID: s.ID, Role: s.Role, Via: s.Via})
		kind := core.KindNode
		if s.Role == domain.SiteWitness {
			kind = core.KindWitness
		}
		in.Voters = append(in.Voters, voterOf(cfg, string(s.ID), kind, s.ID))
	}
	if cfg.Quorum.Share != "" {
		in.Voters = append(in.Voters, voterOf(cfg, config.VoterShare, core.KindShare, ""))
	}
	if cfg.Quorum.Object != nil {
		in.Voters = append(in.Voters, voterOf(cfg, config.VoterObject, core.KindObject, ""))
	}
	if cfg.Quorum.Witness != nil {
		in.Voters = append(in.Voters, voterOf(cfg, config.VoterWitness, core.KindWitness, ""))
	}
	if cfg.Quorum.Disk != "" {
		v := voterOf(cfg, config.VoterDisk, core.KindDisk, "")
		v.Own = ownTarget(cfg)
		in.Voters = append(in.Voters, v)
	}
	for _, g := range cfg.Groups {
		in.Groups = append(in.Groups, g.Domain())
		if g.RTO > 0 {
			in.RTO[g.ID] = time.Duration(g.RTO)
		}
	}
	if cfg.DNS.Zone != "" {
		in.TTL = time.Duration(cfg.DNS.TTL)
	}
	for _, h := range cfg.Hosts {
		in.Hosts = append(in.Hosts, planner.Host{ID: h.ID, Gate: h.Driver == "embedded"}) // the embedded workload asks at each acknowledgement
	}
	return in
}

func modelOf(name string) core.Model {
	return map[string]core.Model{config.NodeMajority: core.NodeMajority, config.NodeAndDiskMajority: core.NodeAndDiskMajority,
		config.DiskOnly: core.DiskOnly, config.NodeAndShareMajority: core.NodeAndShareMajority}[name]
}

// voterOf is a voter with what quorum.voters says of it.
func voterOf(cfg config.Config, id string, kind core.Kind, at domain.SiteID) planner.Voter {
	out := planner.Voter{Member: core.Member{ID: core.VoterID(id), Kind: kind}, Site: at, Unsaid: at == ""}
	i := slices.IndexFunc(cfg.Quorum.Voters, func(v config.Voter) bool { return v.ID == id })
	if i < 0 {
		return out
	}
	v := cfg.Quorum.Voters[i]
	out.Unsaid, out.Weight, out.On, out.VM, out.Replicated, out.Clusters = false, v.Weight, v.On, v.VM, v.Replicated, v.Clusters
	if at == "" {
		out.Site = v.Site
	}
	return out
}

// ownTarget is the address of the voting disk's target, where that is this site's own.
func ownTarget(cfg config.Config) string {
	u, err := initiator.ParseURL(cfg.Quorum.Disk)
	if err != nil || u.Address != cfg.ISCSI.Listen && u.Address != cfg.ISCSI.Portal {
		return ""
	}
	return u.Address
}
