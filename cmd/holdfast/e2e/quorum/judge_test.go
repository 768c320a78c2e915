package quorum

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

// judge says what the workloads' ledgers prove against the vote: two boots that served at once, an epoch that was served under at two
// sites, an epoch below one that was served under before. Nil: nothing.
func judge(lines []ledger.Line) error {
	if twice := ledger.ServedTwice(lines); len(twice) > 0 {
		o := twice[0]
		return fmt.Errorf("served twice: site %s (epoch %s, from %d to %d) and site %s (epoch %s, from %d to %d), for %s",
			o.A.Site, o.A.Epoch, o.A.FirstNS, o.A.LastNS, o.B.Site, o.B.Epoch, o.B.FirstNS, o.B.LastNS, time.Duration(o.OverlapNS))
	}
	all := ledger.Servings(lines)
	for i, s := range all {
		if i == 0 {
			continue
		}
		switch before := all[i-1]; {
		case s.Epoch < before.Epoch:
			return fmt.Errorf("site %s served under epoch %s after site %s under %s", s.Site, s.Epoch, before.Site, before.Epoch)
		case s.Epoch == before.Epoch && s.Site != before.Site:
			return fmt.Errorf("sites %s and %s served under the same epoch %s", before.Site, s.Site, s.Epoch)
		}
	}
	return nil
}

// takeovers is how often the workload went from one site to the other, between two moments of CLOCK_BOOTTIME.
func takeovers(lines []ledger.Line, from, to int64) (n int) {
	all := ledger.Servings(lines)
	for i, s := range all {
		if i > 0 && s.Site != all[i-1].Site && s.FirstNS > from && s.FirstNS <= to {
			n++
		}
	}
	return n
}

// outage is the longest time without an acknowledgement between two moments.
func outage(lines []ledger.Line, from, to int64) time.Duration {
	last, longest := from, int64(0)
	for _, l := range lines {
		if l.Kind == ledger.KindAck && l.ClockNS > from && l.ClockNS <= to {
			longest = max(longest, l.ClockNS-last)
			last = max(last, l.ClockNS)
		}
	}
	return time.Duration(max(longest, to-last))
}

func ack(site domain.SiteID, boot string, counter uint64, clock int64) ledger.Line {
	return ledger.Line{Kind: ledger.KindAck, VM: "erp-1", Site: site, Instance: boot, Epoch: domain.Epoch(counter), ClockNS: clock}
}

// TestTheJudgeConvictsAForgedLog hands the judge logs in which two sites served.
func TestTheJudgeConvictsAForgedLog(t *testing.T) {
	for name, c := range map[string]struct {
		lines []ledger.Line
		want  string // of what it says; empty: nothing is wrong
	}{
		"one after the other":       {[]ledger.Line{ack("a", "1", 1, 10), ack("a", "1", 1, 20), ack("b", "2", 2, 30), ack("a", "3", 3, 40)}, ""},
		"the VM started again":      {[]ledger.Line{ack("a", "1", 1, 10), ack("a", "2", 1, 20)}, ""},
		"two sites at once":         {[]ledger.Line{ack("a", "1", 1, 10), ack("b", "2", 2, 20), ack("a", "1", 1, 21), ack("b", "2", 2, 30)}, "served twice"},
		"one acknowledgement twice": {[]ledger.Line{ack("a", "1", 1, 10), ack("a", "1", 1, 20), ack("b", "2", 2, 20)}, "served twice"},
		"one epoch at two sites":    {[]ledger.Line{ack("a", "1", 1, 10), ack("b", "2", 1, 20)}, "the same epoch"},
		"an epoch that fell":        {[]ledger.Line{ack("a", "1", 2, 10), ack("b", "2", 1, 20)}, "after site a"},
	} {
		err := judge(c.lines)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestTakeoversAndOutagesAreOfTheTimeAskedFor(t *testing.T) {
	lines := []ledger.Line{ack("a", "1", 1, 10), ack("a", "1", 1, 20), ack("b", "2", 2, 50), ack("b", "2", 2, 60), ack("a", "3", 3, 90)}
	if got := takeovers(lines, 15, 65); got != 1 {
		t.Errorf("%d takeovers, want 1", got)
	}
	if got := outage(lines, 15, 65); got != 30 {
		t.Errorf("without service for %d, want 30", got)
	}
	if got := outage(lines, 62, 85); got != 23 {
		t.Errorf("without service for %d, want all of 23", got)
	}
}
