package core

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

var update = flag.Bool("update", false, "write the golden files and docs/quorum-survival.md anew")

// lab is a cluster of nodes at sites, each site with a candidate unless it only votes.
type lab struct {
	*world
	at    map[VoterID]domain.SiteID
	order []domain.SiteID // data sites, the first is the primary
	lost  map[string]bool
}

// newLab makes a voter of every node. A node's site is its first letter; w only votes.
func newLab(t *testing.T, nodes ...VoterID) *lab {
	l := &lab{world: newWorld(t, nodes...), at: map[VoterID]domain.SiteID{}, lost: map[string]bool{}}
	reg := Register{Config: Config{Version: 1, Weights: weightsOf(nodes...)}}
	for _, id := range nodes {
		site := domain.SiteID(id[:1])
		l.at[id] = site
		if site != "w" && !slices.Contains(l.order, site) {
			l.order = append(l.order, site)
		}
	}
	reg.InSync = l.order
	for i, site := range l.order {
		l.candidate(Params{Self: site, Index: i + 1, Rank: i, Timing: DefaultTiming(), Initial: reg, Sites: l.at, Incarnation: 1})
	}
	return l
}

// compete lets every site that lives ask for the lease.
func (l *lab) compete() {
	for _, site := range l.order {
		if !l.down[string(site)] {
			l.do(site, l.cands[site].Campaign(l.now, Campaign{}))
		}
	}
}

// lose takes nodes, or whole sites, away for good.
func (l *lab) lose(names ...string) {
	l.logf("LOST: %s", strings.Join(names, ", "))
	for _, n := range names {
		l.down[n], l.lost[n] = true, true
		for id, site := range l.at {
			if string(site) == n {
				l.down[string(id)] = true
			}
		}
	}
	for _, site := range l.order { // a site without nodes is lost
		if !slices.ContainsFunc(l.nodesOf(site), func(id VoterID) bool { return !l.down[string(id)] }) {
			l.down[string(site)] = true
		}
	}
	l.compete()
}

func (l *lab) nodesOf(site domain.SiteID) []VoterID {
	var out []VoterID
	for id, s := range l.at {
		if s == site {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// split cuts sites into parts that do not reach one another; a site that stands in several reaches all of those.
func (l *lab) split(parts ...string) {
	l.logf("SPLIT: %s", strings.Join(parts, " | "))
	for _, site := range l.order {
		for id, far := range l.at {
			together := slices.ContainsFunc(parts, func(p string) bool {
				return strings.Contains(p, string(site)) && strings.Contains(p, string(far))
			})
			if site != far && !together {
				l.down[string(site)+">"+string(id)], l.down[string(id)+">"+string(site)] = true, true
			}
		}
	}
	l.compete()
}

// serving is who holds the lease now, empty when nobody does.
func (l *lab) serving() domain.SiteID {
	for _, site := range l.order {
		if _, ok := l.cands[site].Lease(l.now); ok && !l.down[string(site)] {
			return site
		}
	}
	return ""
}

// story is what happened, without the traffic, and how it ended.
func (l *lab) story() string {
	var out []string
	for _, line := range l.lines {
		for _, word := range []string{"LOST", "SPLIT", "BACK", "FORCE", "GRANTED", "refused", "configuration"} {
			if strings.Contains(line, word) {
				out = append(out, line)
				break
			}
		}
	}
	for _, site := range l.order {
		if l.down[string(site)] {
			continue
		}
		if lease, ok := l.cands[site].Lease(l.now); ok {
			out = append(out, fmt.Sprintf("ends  %s serves under %s", site, lease.Epoch))
			continue
		}
		phase, tally := l.cands[site].Phase()
		text := fmt.Sprintf("ends  %s: %s, %d of %d votes:", site, phase, tally.Have, tally.Total)
		for _, v := range tally.Votes {
			verdict := string(v.Verdict)
			if verdict == "" {
				verdict = "silent"
			}
			text += fmt.Sprintf(" %s %s", v.Voter, verdict)
		}
		out = append(out, text)
	}
	l.lines = nil
	return strings.Join(out, "\n") + "\n"
}

// settle is longer than any takeover takes.
const settle = 20 * time.Second

// begin lets the primary take the lease.
func begin(l *lab) *lab {
	first := l.order[0]
	l.do(first, l.cands[first].Campaign(l.now, Campaign{}))
	l.run(time.Second)
	return l
}

// textbook is one case as the field's documentation describes it.
type textbook struct {
	name  string
	says  string // what the documentation says of its end
	nodes []VoterID
	play  func(*lab)
	want  domain.SiteID // who serves at the end
}

func threeAndTwo() []VoterID { return []VoterID{"a1", "a2", "a3", "b1", "b2"} }

func twoAndTwo(more ...VoterID) []VoterID { return append([]VoterID{"a1", "a2", "b1", "b2"}, more...) }

func textbooks() []textbook {
	return []textbook{
		{"secondary-lost", "node majority, three and two: the loss of the secondary site leaves a majority at the primary", threeAndTwo(),
			func(l *lab) { l.lose("b"); l.run(settle) }, "a"},
		{"primary-lost", "node majority, three and two: the loss of the primary site leaves two of five; the cluster stops until a person forces quorum", threeAndTwo(),
			func(l *lab) { l.lose("a"); l.run(settle) }, ""},
		{"link-lost", "node majority, three and two: a cut link leaves the primary with the majority, and the secondary stops", threeAndTwo(),
			func(l *lab) { l.split("a", "b"); l.run(settle) }, "a"},
		{"three-of-five-lost", "node majority of five survives two losses, not three", threeAndTwo(),
			func(l *lab) { l.lose("a1", "b1"); l.run(settle); l.lose("b2"); l.run(settle) }, ""},
		{"even-split-without-witness", "an even split leaves no side with a majority: both stop", twoAndTwo(),
			func(l *lab) { l.split("a", "b"); l.run(settle) }, ""},
		{"even-split-with-witness", "with a witness that both sides reach, one side keeps it, and the majority", twoAndTwo("w"),
			func(l *lab) { l.split("aw", "bw"); l.run(settle) }, "a"},
		{"primary-cut-off", "with a witness in a third place the side that reaches it goes on: the cut-off primary stops first", twoAndTwo("w"),
			func(l *lab) { l.split("a", "bw"); l.run(settle) }, "b"},
		{"primary-lost-with-witness", "with a witness in a third place the secondary takes over by itself", twoAndTwo("w"),
			func(l *lab) { l.lose("a"); l.run(settle) }, "b"},
		{"witness-lost", "the loss of the witness alone changes nothing", twoAndTwo("w"),
			func(l *lab) { l.lose("w"); l.run(settle) }, "a"},
		{"witness-lost-first-then-the-link", "once the witness is gone, a cut link is an even split: both stop", twoAndTwo("w"),
			func(l *lab) { l.lose("w"); l.run(settle); l.split("a", "b"); l.run(settle) }, ""},
		{"witness-lost-first-then-a-node", "once the witness is gone, one node more may be lost", twoAndTwo("w"),
			func(l *lab) { l.lose("w"); l.run(settle); l.lose("b2"); l.run(settle) }, "a"},
		{"witness-and-a-site-lost", "the witness and a site at once leave two of five: the cluster stops", twoAndTwo("w"),
			func(l *lab) { l.lose("w", "b"); l.run(settle) }, ""},
	}
}

func TestTextbookCasesEndAsTheFieldSays(t *testing.T) {
	for _, b := range textbooks() {
		t.Run(b.name, func(t *testing.T) {
			l := begin(newLab(t, b.nodes...))
			b.play(l)
			if got := l.serving(); got != b.want {
				t.Errorf("%q serves, the field says %q: %s", got, b.want, b.says)
			}
			golden(t, filepath.Join("testdata", "textbook", b.name+".golden"), b.says+"\n\n"+l.story())
		})
	}
}

// Five nodes, three and two, survive the loss of any two; which two makes no difference.
func TestFiveNodesSurviveTheLossOfAnyTwo(t *testing.T) {
	nodes := threeAndTwo()
	var all string
	for i := range nodes {
		for j := i + 1; j < len(nodes); j++ {
			l := begin(newLab(t, nodes...))
			l.lose(string(nodes[i]), string(nodes[j]))
			l.run(settle)
			if l.serving() != "a" {
				t.Errorf("%s and %s lost: %q serves", nodes[i], nodes[j], l.serving())
			}
			all += l.story() + "\n"
		}
	}
	golden(t, filepath.Join("testdata", "textbook", "any-two-of-five-lost.golden"), "node majority of five survives the loss of any two nodes\n\n"+all)
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("differs from %s (-update writes it)\n--- got\n%s", path, got)
	}
}
