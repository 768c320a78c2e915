package core

import (
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const g = 6 * time.Second

func at(seconds float64) Instant { return Instant(seconds * float64(time.Second)) }

func ep(counter, site int) domain.Epoch { return domain.NewEpoch(0, counter, site) }

func reqOf(verb Verb, from domain.SiteID, e domain.Epoch, seq uint64) Request {
	reg := Register{WE: e, Seq: seq, InSync: []domain.SiteID{from}}
	return Request{Verb: verb, From: from, Epoch: e, Seq: seq, G: g, Reg: &reg, Successor: "b"}
}

func TestVoterAnswers(t *testing.T) {
	type step struct {
		at      float64
		req     Request
		want    Verdict
		left    time.Duration
		persist bool
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"a fresh voter is free", []step{
			{0, reqOf(Probe, "a", 0, 0), OK, 0, false},
			{0, reqOf(Prepare, "a", ep(1, 1), 0), OK, 0, true},
			{0, reqOf(Prepare, "b", ep(1, 1), 0), Rejected, 0, false},
			{0, reqOf(Prepare, "b", ep(1, 2), 0), OK, 0, true},
			{0, reqOf(Accept, "a", ep(1, 1), 1), Rejected, 0, false},
			{0, reqOf(Accept, "b", ep(1, 2), 1), OK, 0, true},
		}},
		{"a held vote is busy for another until G after the last renewal", []step{
			{0, reqOf(Accept, "a", ep(1, 1), 1), OK, 0, true},
			{1, reqOf(Renew, "a", ep(1, 1), 2), OK, 0, false},
			{6.9, reqOf(Probe, "b", 0, 0), Busy, 100 * time.Millisecond, false},
			{6.9, reqOf(Prepare, "b", ep(2, 2), 0), Busy, 100 * time.Millisecond, false},
			{6.9, reqOf(Probe, "a", 0, 0), OK, 0, false},
			{7, reqOf(Prepare, "b", ep(2, 2), 0), OK, 0, true},
			{7, reqOf(Renew, "a", ep(1, 1), 3), Rejected, 0, false},
			{7, reqOf(Update, "a", ep(1, 1), 3), Rejected, 0, false},
		}},
		{"a repeated or late renewal extends nothing", []step{
			{0, reqOf(Accept, "a", ep(1, 1), 1), OK, 0, true},
			{1, reqOf(Renew, "a", ep(1, 1), 3), OK, 0, false},
			{5, reqOf(Renew, "a", ep(1, 1), 3), OK, 0, false},
			{5, reqOf(Renew, "a", ep(1, 1), 2), OK, 0, false},
			{5, reqOf(Accept, "a", ep(1, 1), 1), OK, 0, false},
			{7, reqOf(Probe, "b", 0, 0), OK, 0, false},
		}},
		{"a release reserves the vote for the successor", []step{
			{0, reqOf(Accept, "a", ep(1, 1), 1), OK, 0, true},
			{1, reqOf(Release, "a", ep(1, 1), 2), OK, 0, true},
			{1, reqOf(Accept, "a", ep(1, 1), 1), Rejected, 0, false},
			{1, reqOf(Renew, "a", ep(1, 1), 3), Rejected, 0, false},
			{2, reqOf(Probe, "a", 0, 0), Busy, 5 * time.Second, false},
			{2, reqOf(Probe, "b", 0, 0), OK, 0, false},
			{7, reqOf(Probe, "a", 0, 0), OK, 0, false},
		}},
		{"only the holder of the epoch releases or updates", []step{
			{0, reqOf(Accept, "a", ep(1, 1), 1), OK, 0, true},
			{0, reqOf(Release, "b", ep(1, 1), 2), Rejected, 0, false},
			{0, reqOf(Release, "a", ep(0, 1), 2), Rejected, 0, false},
			{0, reqOf(Update, "b", ep(1, 1), 2), Rejected, 0, false},
			{5, reqOf(Update, "a", ep(1, 1), 2), OK, 0, true},
			{10.5, reqOf(Probe, "b", 0, 0), Busy, 500 * time.Millisecond, false},
		}},
		{"an unknown verb and a bare accept are refused", []step{
			{0, Request{Verb: "steal", From: "a", Epoch: ep(9, 1)}, Rejected, 0, false},
			{0, Request{Verb: Accept, From: "a", Epoch: ep(9, 1), G: g}, Rejected, 0, false},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := NewVoter("v", Record{}, Volatile{})
			for i, s := range tt.steps {
				out := v.Handle(at(s.at), s.req)
				if out.Reply.Verdict != s.want || out.Reply.Remaining.Round(time.Millisecond) != s.left || out.Persist != s.persist {
					t.Fatalf("step %d (%s): got %s, %v left, persist %v; want %s, %v, %v", i, s.req.Verb,
						out.Reply.Verdict, out.Reply.Remaining, out.Persist, s.want, s.left, s.persist)
				}
			}
		})
	}
}

func TestRegisterNeverGoesBack(t *testing.T) {
	v := NewVoter("v", Record{}, Volatile{})
	v.Handle(0, reqOf(Accept, "a", ep(1, 1), 1))
	v.Handle(0, reqOf(Update, "a", ep(1, 1), 5))
	v.Handle(0, reqOf(Update, "a", ep(1, 1), 4))
	if got := v.Record().Reg.Seq; got != 5 {
		t.Errorf("register seq %d after an older update, want 5", got)
	}
}

func TestAfterARebootTheVoteIsBusyForG(t *testing.T) {
	v := NewVoter("v", Record{}, Volatile{})
	v.Handle(at(100), reqOf(Accept, "a", ep(1, 1), 1))
	tests := []struct {
		name string
		vol  Volatile
		now  float64
		want Verdict
	}{
		{"same boot, mirror kept", v.Volatile(), 105.9, Busy},
		{"same boot, mirror kept, over", v.Volatile(), 106, OK},
		{"same boot, mirror lost", Unknown(v.Record(), at(103)), 108.9, Busy},
		{"same boot, mirror lost, over", Unknown(v.Record(), at(103)), 109, OK},
		{"reboot", Rebooted(v.Record()), 5.9, Busy},
		{"reboot, over", Rebooted(v.Record()), 6, OK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			again := NewVoter("v", v.Record(), tt.vol)
			if got := again.Handle(at(tt.now), reqOf(Probe, "b", 0, 0)).Reply.Verdict; got != tt.want {
				t.Errorf("probe at %v: %s, want %s", tt.now, got, tt.want)
			}
		})
	}
}

func TestMajorityIsStrict(t *testing.T) {
	tests := []struct {
		name    string
		cfg     Config
		have    []VoterID
		want    bool
		preset  Model
		nodes   []VoterID
		extra   VoterID
		invalid bool
	}{
		{name: "two of three", preset: NodeMajority, nodes: []VoterID{"1", "2", "3"}, have: []VoterID{"1", "3"}, want: true},
		{name: "one of three", preset: NodeMajority, nodes: []VoterID{"1", "2", "3"}, have: []VoterID{"1"}},
		{name: "half of four", preset: NodeMajority, nodes: []VoterID{"1", "2", "3", "4"}, have: []VoterID{"1", "2"}},
		{name: "node and share of two nodes", preset: NodeAndShareMajority, nodes: []VoterID{"1", "2"}, extra: "s", have: []VoterID{"2", "s"}, want: true},
		{name: "node and disk, disk alone", preset: NodeAndDiskMajority, nodes: []VoterID{"1", "2"}, extra: "d", have: []VoterID{"d"}},
		{name: "disk only, the disk", preset: DiskOnly, nodes: []VoterID{"1", "2"}, extra: "d", have: []VoterID{"d"}, want: true},
		{name: "disk only, all nodes", preset: DiskOnly, nodes: []VoterID{"1", "2"}, extra: "d", have: []VoterID{"1", "2"}},
		{name: "joint needs both, has new", cfg: Config{Weights: weightsOf("4", "5", "6"), Old: weightsOf("1", "2", "3")}, have: []VoterID{"4", "5"}},
		{name: "joint needs both, has old", cfg: Config{Weights: weightsOf("4", "5", "6"), Old: weightsOf("1", "2", "3")}, have: []VoterID{"1", "2"}},
		{name: "joint has both", cfg: Config{Weights: weightsOf("3", "4", "5"), Old: weightsOf("1", "2", "3")}, have: []VoterID{"2", "3", "4"}, want: true},
		{name: "weights", cfg: Config{Weights: Weights{"1": 3, "2": 2}}, have: []VoterID{"1"}, want: true},
		{name: "nobody votes", cfg: Config{Weights: Weights{}}, have: []VoterID{"1"}},
		{name: "node majority takes no share", preset: NodeMajority, nodes: []VoterID{"1"}, extra: "s", invalid: true},
		{name: "share majority needs a share", preset: NodeAndShareMajority, nodes: []VoterID{"1"}, invalid: true},
		{name: "unknown model", preset: "most-of-them", nodes: []VoterID{"1"}, extra: "s", invalid: true},
		{name: "no votes at all", preset: NodeMajority, invalid: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := tt.cfg
			if tt.preset != "" {
				var err error
				if cfg, err = Preset(tt.preset, tt.nodes, tt.extra); (err != nil) != tt.invalid {
					t.Fatalf("Preset: %v, want invalid %v", err, tt.invalid)
				}
			}
			has := func(id VoterID) bool {
				for _, h := range tt.have {
					if h == id {
						return true
					}
				}
				return false
			}
			if got := cfg.Quorum(has); got != tt.want {
				t.Errorf("Quorum(%v) under %v = %v, want %v", tt.have, cfg.Weights, got, tt.want)
			}
		})
	}
}

func TestTimingLeavesRoomForDrift(t *testing.T) {
	for _, tm := range []Timing{DefaultTiming(), FastTiming()} {
		if err := tm.Validate(); err != nil {
			t.Error(err)
		}
		longest := time.Duration(float64(tm.Hold()) / (1 - tm.Epsilon)) // true time the slowest holder waits
		shortest := time.Duration(float64(tm.G) / (1 + tm.Epsilon))     // true time the fastest voter waits
		if longest > shortest {
			t.Errorf("G %v: a slow holder waits %v, a fast voter only %v", tm.G, longest, shortest)
		}
	}
	bad := DefaultTiming()
	bad.Renew = bad.G
	if bad.Validate() == nil {
		t.Error("a renewal interval of G is accepted")
	}
}
