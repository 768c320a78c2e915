package sim

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// Topology is who votes where. Data sites come first; the last letters are witnesses.
type Topology struct {
	Name   string
	Data   int // data sites a, b, c
	Sites  int // all sites
	Voters []VoterSpec
}

// VoterSpec is one voter. Weight 0 is a spare that only a change of weights brings in.
type VoterSpec struct {
	ID      core.VoterID
	Site    int
	Weight  int
	Passive bool
}

// Topologies lists every arrangement a schedule may draw.
func Topologies() []Topology {
	return []Topology{
		{"two sites and a witness", 2, 3, []VoterSpec{{"va", 0, 1, false}, {"vb", 1, 1, false}, {"vw", 2, 1, false}}},
		{"two sites and a share", 2, 3, []VoterSpec{{"va", 0, 1, false}, {"vb", 1, 1, false}, {"share", 2, 1, true}}},
		{"three data sites", 3, 3, []VoterSpec{{"va", 0, 1, false}, {"vb", 1, 1, false}, {"vc", 2, 1, false}}},
		{"two by two and a witness", 2, 3, []VoterSpec{{"va", 0, 1, false}, {"va2", 0, 1, false}, {"vb", 1, 1, false},
			{"vb2", 1, 1, false}, {"vw", 2, 1, false}}},
		{"two by two and a share", 2, 3, []VoterSpec{{"va", 0, 1, false}, {"va2", 0, 1, false}, {"vb", 1, 1, false},
			{"vb2", 1, 1, false}, {"share", 2, 1, true}}},
		{"three data sites and two witnesses", 3, 5, []VoterSpec{{"va", 0, 1, false}, {"vb", 1, 1, false}, {"vc", 2, 1, false},
			{"vw", 3, 1, false}, {"vx", 4, 1, false}}},
		{"three data sites and a share", 3, 4, []VoterSpec{{"va", 0, 1, false}, {"vb", 1, 1, false}, {"vc", 2, 1, false},
			{"share", 3, 1, true}}},
		{"two sites, a witness, two spares", 2, 5, []VoterSpec{{"va", 0, 1, false}, {"vb", 1, 1, false}, {"vw", 2, 1, false},
			{"vx", 3, 0, false}, {"vy", 4, 0, false}}},
		{"seven votes", 3, 4, []VoterSpec{{"va", 0, 1, false}, {"va2", 0, 1, false}, {"vb", 1, 1, false}, {"vb2", 1, 1, false},
			{"vc", 2, 1, false}, {"vc2", 2, 1, false}, {"vw", 3, 1, false}}},
		{"three and two", 2, 3, []VoterSpec{{"va", 0, 2, false}, {"vb", 1, 1, false}, {"vw", 2, 1, false}, {"share", 2, 1, true}}},
	}
}

var siteNames = []domain.SiteID{"a", "b", "c", "w", "x", "y"}

// siteName keeps witnesses apart from data sites whatever their number.
func (t Topology) siteName(i int) domain.SiteID {
	if i < t.Data {
		return siteNames[i]
	}
	return siteNames[3+i-t.Data]
}

func (t Topology) initial() core.Register {
	w := core.Weights{}
	for _, v := range t.Voters {
		if v.Weight > 0 {
			w[v.ID] = v.Weight
		}
	}
	reg := core.Register{Config: core.Config{Version: 1, Weights: w}}
	for i := range t.Data {
		reg.InSync = append(reg.InSync, t.siteName(i))
	}
	return reg
}

func (t Topology) places() map[core.VoterID]domain.SiteID {
	out := map[core.VoterID]domain.SiteID{}
	for _, v := range t.Voters {
		out[v.ID] = t.siteName(v.Site)
	}
	return out
}

// scenario is what a schedule draws before it begins.
type scenario struct {
	topo     Topology
	timing   core.Timing
	length   time.Duration // of the faulty part
	drift    float64       // bound on clock-rate error of the machines
	moves    bool
	reweigh  bool
	degrade  bool          // the holder shrinks the in-sync set when a replica lags
	consent  bool          // an operator may accept a loss
	forces   bool          // an operator loses sites and forces quorum
	latency  time.Duration // one way, at most
	writeGap time.Duration
}
