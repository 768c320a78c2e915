package ledger

import (
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func ack(site domain.SiteID, instance string, seq uint64, clock int64) Line {
	return Line{Kind: KindAck, VM: "erp-1", Site: site, Instance: instance, Seq: seq, Hash: instance, ClockNS: clock}
}

func TestParseLeavesOutTheLineAKillCut(t *testing.T) {
	var b strings.Builder
	for i := range 3 {
		line, err := ack("a", "boot-1", uint64(i+1), int64(i)).Encode()
		if err != nil {
			t.Fatal(err)
		}
		b.Write(line)
	}
	got, err := Parse(strings.NewReader(b.String() + `{"kind":"ack","seq":4`))
	if err != nil || len(got) != 3 || got[2] != ack("a", "boot-1", 3, 2) {
		t.Fatalf("%+v %v", got, err)
	}
	if _, err := Parse(strings.NewReader("not json\n")); err == nil {
		t.Fatal("garbage was read")
	}
}

func TestServedTwiceIsAnOverlapOfAcknowledgements(t *testing.T) {
	for name, c := range map[string]struct {
		lines []Line
		want  int
	}{
		"one after the other": {[]Line{ack("a", "1", 1, 10), ack("a", "1", 2, 20), ack("b", "2", 3, 21)}, 0},
		"at once":             {[]Line{ack("a", "1", 1, 10), ack("a", "1", 2, 20), ack("b", "2", 2, 19)}, 1},
		"in any file order":   {[]Line{ack("b", "2", 2, 19), ack("b", "2", 3, 40), ack("a", "1", 1, 10), ack("a", "1", 2, 20)}, 1},
		"the same instant":    {[]Line{ack("a", "1", 1, 10), ack("b", "2", 2, 10)}, 1},
		"a start is no ack":   {[]Line{ack("a", "1", 1, 10), {Kind: KindStart, VM: "erp-1", Site: "b", Instance: "2", ClockNS: 5}}, 0},
		"another machine":     {[]Line{ack("a", "1", 1, 10), ack("a", "1", 1, 30), {Kind: KindAck, VM: "other", Instance: "2", ClockNS: 20}}, 0},
		"there and back":      {[]Line{ack("a", "1", 1, 10), ack("b", "2", 2, 20), ack("a", "3", 3, 30)}, 0},
	} {
		if got := ServedTwice(c.lines); len(got) != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestLostCountsAcknowledgedAppendsOfAnotherHistory(t *testing.T) {
	acked := []Line{ack("a", "1", 1, 1), ack("a", "1", 2, 2), ack("a", "1", 3, 3), {Kind: KindStop, Seq: 3}}
	lost := Lost(acked, map[uint64]string{1: "1", 2: "another"})
	if len(lost) != 2 || lost[0].Seq != 2 || lost[1].Seq != 3 {
		t.Fatalf("%+v", lost)
	}
}
