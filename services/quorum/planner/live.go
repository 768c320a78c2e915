package planner

import (
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// LiveOf joins what the quorum services of sites say: of each voter the worst that any of them sees, of each group the newest
// epoch. A site's own voter is behind no link; it counts as answering at once. nil when no site answered.
func LiveOf(sites []api.QuorumStatus) *Live {
	if len(sites) == 0 {
		return nil
	}
	out := &Live{Voters: map[core.VoterID]Seen{}, Files: map[domain.SiteID]core.Weights{}}
	at := map[domain.GroupID]int{}
	for _, st := range sites {
		file := core.Weights{}
		out.Files[st.Site] = file
		for _, v := range st.Voters {
			file[core.VoterID(v.ID)] = v.Weight
			out.Voters[core.VoterID(v.ID)] = worse(out.Voters[core.VoterID(v.ID)], v, v.Site == st.Site)
		}
		for _, l := range st.Groups {
			vote := Vote{Group: l.Group, Epoch: l.Epoch, Config: ConfigOf(l)}
			i, ok := at[l.Group]
			switch {
			case !ok:
				at[l.Group] = len(out.Groups)
				out.Groups = append(out.Groups, vote)
			case l.Epoch > out.Groups[i].Epoch || l.Held && l.Epoch == out.Groups[i].Epoch:
				out.Groups[i] = vote
			}
		}
	}
	return out
}

func worse(s Seen, v api.VoterStatus, own bool) Seen {
	if rtt := time.Duration(v.RTTP99Ns); v.RTTSamples > 0 && (s.Samples == 0 || rtt > s.RTT) {
		s.RTT, s.Samples = rtt, v.RTTSamples
	}
	if own && !core.Kind(v.Kind).Passive() && s.Samples == 0 {
		s.Samples = 1
	}
	if v.Conformance != "" && (s.Conformance == "" || s.Conformance == ConformanceOK) {
		s.Conformance = v.Conformance
	}
	if v.LUN != "" && s.LUN != "" && v.LUN != s.LUN {
		s.Conformance = fmt.Sprintf("its sites vote on two disks, %s and %s, which are two votes", s.LUN, v.LUN)
	}
	if v.LUN != "" {
		s.LUN = v.LUN
	}
	return s
}

// ConfigOf is the votes in force as a lease tells them; no weights: not known. Of a joint configuration the new ones stand for both.
func ConfigOf(l api.Lease) core.Config {
	if l.Weights == nil {
		return core.Config{}
	}
	w := core.Weights{}
	for id, n := range l.Weights {
		w[core.VoterID(id)] = n
	}
	c := core.Config{Weights: w}
	if l.Joint {
		c.Old = w
	}
	return c
}
