package health

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

const (
	// skewWindow is how long a node is listened to before its clock is judged: a beat that was on its way for long says little.
	skewWindow = 5 * time.Second
	// skewCalm is the part of the limit below which clocks agree again.
	skewCalm = 2
)

// nodes compares what nodes say of themselves in their heartbeats with this observer's own: the wall clock and the protocol
// version. Nothing is decided by either; people are told. Its methods may be called from any goroutine.
type nodes struct {
	limit time.Duration
	ours  api.Version

	mu    sync.Mutex
	known map[nodeKey]*node
}

type nodeKey struct {
	site domain.SiteID
	node string
}

// node is what is known of one. A beat shows the node's clock less the time it was under way, so that the greatest difference
// of a window is the nearest to the truth.
type node struct {
	version      string
	refused      error
	toldRefused  bool
	began        time.Duration // of the present window
	now, before  time.Duration // greatest difference of the present window and of the one before
	whole, heard bool          // there is a window before; a beat of the present one
	skewed, told bool
	last         time.Duration // its last beat
}

func newNodes(limit time.Duration, ours api.Version) *nodes {
	return &nodes{limit: limit, ours: ours, known: map[nodeKey]*node{}}
}

// beat takes a heartbeat that came at t.
func (n *nodes) beat(t instant, hb api.Heartbeat) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := nodeKey{hb.Site, hb.Node}
	have := n.known[k]
	if have == nil {
		if len(n.known) >= maxObjects {
			return
		}
		have = &node{began: t.at}
		n.known[k] = have
	}
	have.last, have.version, have.refused = t.at, hb.Version, n.ours.Accepts(hb.Version)
	if hb.Wall.IsZero() {
		return
	}
	if t.at-have.began >= skewWindow {
		have.before, have.whole = have.now, have.heard && t.at-have.began < 2*skewWindow
		have.began, have.heard = t.at, false
	}
	if d := hb.Wall.Sub(t.wall); !have.heard || d > have.now {
		have.now, have.heard = d, true
	}
	if !have.whole {
		return
	}
	switch d := have.difference().Abs(); {
	case d > n.limit:
		have.skewed = true
	case d < n.limit/skewCalm:
		have.skewed = false
	}
}

// difference is how far the node's clock is ahead of this one's.
func (n *node) difference() time.Duration { return max(n.now, n.before) }

// changes are the facts to tell since they were last asked for.
func (n *nodes) changes(self domain.SiteID) []event.Fact {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []event.Fact
	for _, k := range n.sorted() {
		have := n.known[k]
		if have.skewed != have.told {
			have.told = have.skewed
			out = append(out, event.ClockChanged{Fact: clockFact(have.skewed), Observer: self, Site: k.site, Node: k.node,
				OffsetSeconds: have.difference().Seconds(), LimitSeconds: n.limit.Seconds(), Text: n.clockText(self, k, have)})
		}
		if refused := have.refused != nil; refused != have.toldRefused {
			have.toldRefused = refused
			f := event.VersionChanged{Fact: "version_accepted", Observer: self, Site: k.site, Node: k.node, Theirs: have.version, Ours: n.ours.String()}
			if refused {
				f.Fact, f.Text = "version_refused", have.refused.Error()
			}
			out = append(out, f)
		}
	}
	return out
}

func clockFact(skewed bool) string {
	if skewed {
		return "clock_skewed"
	}
	return "clock_agreed"
}

func (n *nodes) clockText(self domain.SiteID, k nodeKey, have *node) string {
	if !have.skewed {
		return fmt.Sprintf("the clocks of %s of site %s and of the health service of site %s agree again", k.node, k.site, self)
	}
	which := "ahead of"
	if have.difference() < 0 {
		which = "behind"
	}
	return fmt.Sprintf("the clock of %s of site %s is %.1f s %s that of the health service of site %s (limit %s): certificates may be refused, signed commands and TSIG "+
		"updates are refused at 5 minutes, and times in reports do not agree; leases do not use this clock and are not affected: set the clocks by NTP",
		k.node, k.site, have.difference().Abs().Seconds(), which, self, n.limit)
}

// status is every node that is heard, with its clock and its version.
func (n *nodes) status(t instant) []api.NodeStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []api.NodeStatus
	for _, k := range n.sorted() {
		have := n.known[k]
		st := api.NodeStatus{Site: k.site, Node: k.node, Version: have.version, ClockSkewed: have.skewed, SilentNs: int64(t.at - have.last)}
		if have.whole {
			st.ClockOffsetNs = int64(have.difference())
		}
		if have.refused != nil {
			st.Refused = have.refused.Error()
		}
		out = append(out, st)
	}
	return out
}

func (n *nodes) sorted() []nodeKey {
	keys := make([]nodeKey, 0, len(n.known))
	for k := range n.known {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b nodeKey) int {
		return cmp.Or(cmp.Compare(a.site, b.site), cmp.Compare(a.node, b.node))
	})
	return keys
}
