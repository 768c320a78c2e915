package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// VerbWrites asks a replicator how much its groups write: GroupRequest (empty group: all) -> WritesReply.
const VerbWrites = "writes"

// WritesReply is the reply of the replicator's writes verb.
type WritesReply struct {
	Site   domain.SiteID `json:"site"`
	Groups []GroupWrites `json:"groups"`
}

// GroupWrites is how much a group wrote while this site was primary for it.
type GroupWrites struct {
	Group domain.GroupID `json:"group"`
	Hour  WriteProfile   `json:"hour"` // the last hour, by the second
	Week  WriteProfile   `json:"week"` // the last week, by the minute
}

// WriteProfile sums up a stretch of time. Only seconds that were recorded count: those in which this site was primary.
type WriteProfile struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Step    float64   `json:"step_seconds"`
	Covered float64   `json:"covered_seconds"` // recorded, of From to To
	// Writes are changes as the journal numbers them: a command of more than 1 MiB is several.
	Writes Spread `json:"writes_per_second"`
	Bytes  Spread `json:"bytes_per_second"` // their payload
	// Frames is what the changes become: what crosses a link and fills a journal.
	Frames Spread `json:"frame_bytes_per_second"`
	// PeakSecond is the frame bytes of the busiest second.
	PeakSecond float64 `json:"peak_second_frame_bytes"`
	// Rewritten is the part of the blocks of 4 KiB that had been written in the same minute already, about: 0.9 is ten times
	// each.
	Rewritten float64 `json:"rewritten_ratio"`
}

// Spread is how a rate is distributed over steps of time.
type Spread struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P95  float64 `json:"p95"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
}
