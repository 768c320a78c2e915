package core

import (
	"fmt"
	"strings"
	"testing"
)

// survives plays a sequence of losses against real candidates and voters: each node is a site that may serve, w only votes.
// It reports whether somebody serves after each step.
func survives(t *testing.T, nodes []VoterID, steps ...[]VoterID) bool {
	l := newLab(t, nodes...)
	l.mute = true
	begin(l)
	for _, step := range steps {
		var names []string
		for _, id := range step {
			names = append(names, string(id))
		}
		l.lose(names...)
		l.run(settle)
		if l.serving() == "" {
			return false
		}
	}
	return true
}

// count says how many of the ways to lose so much are survived.
func count(outcomes []bool) string {
	ok := 0
	for _, o := range outcomes {
		if o {
			ok++
		}
	}
	switch ok {
	case len(outcomes):
		return "survives"
	case 0:
		return "stops"
	}
	return fmt.Sprintf("survives %d of %d", ok, len(outcomes))
}

// row is one line of the table.
func row(t *testing.T, n int, witness bool) string {
	var nodes []VoterID
	for i := range n {
		nodes = append(nodes, VoterID(string(rune('a'+i))+"1"))
	}
	with := "no"
	if witness {
		nodes, with = append(nodes, "w1"), "yes"
	}
	var one, then, atOnce []bool
	for i, x := range nodes {
		one = append(one, survives(t, nodes, []VoterID{x}))
		for j, y := range nodes {
			if i == j {
				continue
			}
			then = append(then, survives(t, nodes, []VoterID{x}, []VoterID{y}))
			if i < j {
				atOnce = append(atOnce, survives(t, nodes, []VoterID{x, y}))
			}
		}
	}
	votes := len(nodes)
	return fmt.Sprintf("| %d | %s | %d | %d | %s | %s | %s |\n", n, with, votes, votes/2+1, count(one), count(then), count(atOnce))
}

// The table in the manual is what the core does.
func TestTheSurvivalTableIsWhatTheCoreDoes(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# What survives which loss

Written by ` + "`go test ./services/quorum/core -run TestTheSurvivalTable -update`" + `: every way to lose so much was played with the real voters and
candidates, and who serves afterwards was looked at. Each node has one vote and may serve; a witness has one and may not. Every
order of two losses was played, the serving node's own loss among them.

| nodes | witness | votes | needed | one loss | then another | two at once |
|---|---|---|---|---|---|---|
`)
	for n := 2; n <= 6; n++ {
		for _, witness := range []bool{false, true} {
			b.WriteString(row(t, n, witness))
		}
	}
	b.WriteString(`
An even number of votes survives no more losses than the odd number below it. The votes do not follow the losses (there is no
dynamic quorum), so two losses one after the other end as two at once do.
`)
	golden(t, "../../../docs/quorum-survival.md", b.String())
}
