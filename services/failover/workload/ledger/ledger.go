// Package ledger is the evidence a workload leaves outside its replicated disk: one JSON line for each start, each
// acknowledged append and each stop, stamped with CLOCK_BOOTTIME right before the answer was sent. From the ledgers of
// every site a checker counts what was acknowledged, what of it a promoted disk lacks, and whether two sites ever
// served at once, without asking any service.
//
// The package is pure: it encodes, parses and judges. Stamps of different machines cannot be compared; the checks are
// for ledgers written on one machine.
package ledger

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Kinds of line.
const (
	KindStart = "start" // the VM's log is open, and it may serve from now on
	KindAck   = "ack"   // an append is about to be acknowledged
	KindStop  = "stop"  // the VM has ended; a host that lost power writes none
)

// Line is one line of a ledger.
type Line struct {
	Kind     string        `json:"kind"`
	VM       domain.VMID   `json:"vm"`
	Site     domain.SiteID `json:"site"`
	Host     domain.HostID `json:"host,omitempty"`
	Instance string        `json:"instance"`
	Epoch    domain.Epoch  `json:"epoch"`
	Seq      uint64        `json:"seq"`              // of the append; at a start or stop the last one in the log
	Hash     string        `json:"hash,omitempty"`   // applog's Hash.String of the record on the first volume
	Bytes    int           `json:"bytes,omitempty"`  // of the record
	ClockNS  int64         `json:"clock_ns"`         // CLOCK_BOOTTIME of the host
	WallNS   int64         `json:"wall_ns"`          // wall clock
	Reason   string        `json:"reason,omitempty"` // of a stop
}

// Encode is the line as JSON with a newline, to be appended with one write.
func (l Line) Encode() ([]byte, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode ledger line: %w", err)
	}
	return append(b, '\n'), nil
}

// Parse reads a ledger. A last line without its newline, as a killed writer leaves it, is left out: its append was not
// acknowledged.
func Parse(r io.Reader) ([]Line, error) {
	var out []Line
	br := bufio.NewReader(r)
	for n := 1; ; n++ {
		b, err := br.ReadBytes('\n')
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, fmt.Errorf("read ledger line %d: %w", n, err)
		}
		if b = bytes.TrimSpace(b); len(b) == 0 {
			continue
		}
		var l Line
		if err := json.Unmarshal(b, &l); err != nil {
			return out, fmt.Errorf("read ledger line %d: %w", n, err)
		}
		out = append(out, l)
	}
}

// Serving is the time in which one boot of a VM acknowledged appends.
type Serving struct {
	VM       domain.VMID   `json:"vm"`
	Site     domain.SiteID `json:"site"`
	Host     domain.HostID `json:"host,omitempty"`
	Instance string        `json:"instance"`
	Epoch    domain.Epoch  `json:"epoch"`
	FirstNS  int64         `json:"first_ns"` // CLOCK_BOOTTIME of the first acknowledgement
	LastNS   int64         `json:"last_ns"`  // and of the last
	Acks     uint64        `json:"acks"`
}

// Servings lists who served when, in the order of the first acknowledgement. Boots without one are left out.
func Servings(lines []Line) []Serving {
	type key struct {
		vm       domain.VMID
		instance string
	}
	byKey := map[key]*Serving{}
	var order []key
	for _, l := range lines {
		if l.Kind != KindAck {
			continue
		}
		k := key{l.VM, l.Instance}
		s := byKey[k]
		if s == nil {
			s = &Serving{VM: l.VM, Site: l.Site, Host: l.Host, Instance: l.Instance, Epoch: l.Epoch, FirstNS: l.ClockNS, LastNS: l.ClockNS}
			byKey[k] = s
			order = append(order, k)
		}
		s.Acks++
		s.FirstNS, s.LastNS = min(s.FirstNS, l.ClockNS), max(s.LastNS, l.ClockNS)
	}
	out := make([]Serving, 0, len(order))
	for _, k := range order {
		out = append(out, *byKey[k])
	}
	slices.SortStableFunc(out, func(a, b Serving) int { return cmp.Compare(a.FirstNS, b.FirstNS) })
	return out
}

// Overlap is two boots of one VM that served at the same time.
type Overlap struct {
	A, B      Serving
	OverlapNS int64 `json:"overlap_ns"`
}

// ServedTwice lists every pair of boots of one VM whose acknowledgements overlap in time. None means that the VM was
// served by one boot at a time.
func ServedTwice(lines []Line) []Overlap {
	var out []Overlap
	all := Servings(lines)
	for i, a := range all {
		for _, b := range all[i+1:] {
			if a.VM == b.VM && b.FirstNS <= a.LastNS {
				out = append(out, Overlap{A: a, B: b, OverlapNS: min(a.LastNS, b.LastNS) - b.FirstNS})
			}
		}
	}
	return out
}

// Lost lists the acknowledged appends that a log lacks: found maps the sequence of each record of the log to its hash.
// A record of the same sequence with another hash is another append.
func Lost(acked []Line, found map[uint64]string) []Line {
	var out []Line
	for _, l := range acked {
		if l.Kind == KindAck && found[l.Seq] != l.Hash {
			out = append(out, l)
		}
	}
	return out
}
