//go:build e2e

package quorum

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestNoTwoSitesServeWhateverIsStruck is task e2e:quorum.
func TestNoTwoSitesServeWhateverIsStruck(t *testing.T) {
	n, seed := number(t, "HOLDFAST_QUORUM_FAULTS", 0), number(t, "HOLDFAST_QUORUM_SEED", uint64(time.Now().UnixNano()))
	if n == 0 {
		t.Skip("SKIPPED: takes minutes, and root: task e2e:quorum")
	}
	timing := os.Getenv("HOLDFAST_QUORUM_TIMING")
	if timing == "" {
		timing = "fast"
	}
	if leases[timing] == 0 {
		t.Fatalf("HOLDFAST_QUORUM_TIMING=%q: want fast or default", timing)
	}
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("SKIPPED: needs root, for network namespaces and a small disk")
	}
	t.Logf("%d faults, timing %s: HOLDFAST_QUORUM_SEED=%d draws the same again", n, timing, seed)
	product, err := buildStepped(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(seed, 1))
	b := newBed(t, product, timing, rng)
	b.work()
	b.whole()
	r := newResults()
	defer func() { t.Log(r.table()) }()
	for i, k := range draw(rng, int(n)) {
		from := now()
		what := k.strike(b)
		b.whole()
		lines, err := b.proof()
		to := now()
		without := outage(lines, from, to)
		r.add(k.name, takeovers(lines, from, to), without, err)
		t.Logf("%3d of %d %-14s %5.1f s: %s; %s serves, without service for %.2f s at most", i+1, n, k.name, time.Duration(to-from).Seconds(),
			what, b.holder, without.Seconds())
		if err != nil {
			t.Fatalf("fault %d, %s: %v", i+1, k.name, err)
		}
	}
}

// draw gives n kinds: every kind once, in an order that is drawn, and again. HOLDFAST_QUORUM_KINDS, comma-separated, leaves out the others.
func draw(rng *rand.Rand, n int) []kind {
	only := os.Getenv("HOLDFAST_QUORUM_KINDS")
	var all, out []kind
	for _, k := range kinds() {
		if only == "" || strings.Contains(","+only+",", ","+k.name+",") {
			all = append(all, k)
		}
	}
	for len(all) > 0 && len(out) < n {
		for _, i := range rng.Perm(len(all)) {
			out = append(out, all[i])
		}
	}
	return out[:min(n, len(out))]
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: want a number", name, text)
	}
	return n
}
