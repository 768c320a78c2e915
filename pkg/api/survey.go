package api

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Verbs of the link survey.
const (
	VerbSurvey = "survey" // SurveyRequest -> SurveyReply: measure the link from this site to another, and advise
	VerbProbe  = "probe"  // binary, see services/replicator/probe: what a survey measures with
)

// SurveyRequest asks a replicator to measure its own connection to another site.
type SurveyRequest struct {
	To         domain.SiteID `json:"to"`
	DurationNs int64         `json:"duration_ns"` // 1 s to 60 s; 0 means 10 s
	// RateLimit bounds what the measurement of bandwidth sends, in bytes a second; 0: half of the time at full speed.
	RateLimit int64 `json:"rate_limit,omitempty"`
	// BearableNs is what a synchronous write may take longer; 0 means 5 ms.
	BearableNs int64 `json:"bearable_ns,omitempty"`
}

// SurveyReply is what was measured, and what follows from it for each group that was served at this site.
type SurveyReply struct {
	From   domain.SiteID `json:"from"`
	To     domain.SiteID `json:"to"`
	At     time.Time     `json:"at"`
	Link   LinkMeasure   `json:"link"`
	Groups []GroupAdvice `json:"groups"`
}

// LinkMeasure is what a link can do, as the services of one site see it: through the other site's NATS server to its
// replicator and back.
type LinkMeasure struct {
	RoundTrip RoundTrips `json:"round_trip"` // of small requests, while nothing else was sent for the survey
	Out       Bandwidth  `json:"out"`        // to the other site
	Back      Bandwidth  `json:"back"`
	// DistanceKm is the length of fibre that the shortest round trip allows for at most.
	DistanceKm float64 `json:"distance_km"`
}

// RoundTrips are times of small requests, in milliseconds.
type RoundTrips struct {
	Sent   int     `json:"sent"`
	Lost   int     `json:"lost"` // not answered in two seconds; what TCP lost and sent again shows in P99
	Min    float64 `json:"min_ms"`
	P50    float64 `json:"p50_ms"`
	P99    float64 `json:"p99_ms"`
	Max    float64 `json:"max_ms"`
	Jitter float64 `json:"jitter_ms"` // mean difference from one to the next
}

// Bandwidth is what went through one way.
type Bandwidth struct {
	BytesPerSecond float64 `json:"bytes_per_second"`
	Sent           uint64  `json:"sent_bytes"`      // by the measurement
	InFlight       uint64  `json:"in_flight_bytes"` // that it needed
	// AtLeast says that the measurement ended at a bound of its own: the link may do more.
	AtLeast bool `json:"at_least,omitempty"`
	// Skipped is how many bursts were left out because replication needed the link.
	Skipped int `json:"skipped_bursts,omitempty"`
}

// Advice for a group and a link.
const (
	AdviseSync    = "sync"
	AdviseAsync   = "async"
	AdviseNeither = "neither"
)

// GroupAdvice is what a link would be to a group.
type GroupAdvice struct {
	Group     domain.GroupID `json:"group"`
	Mode      domain.Mode    `json:"mode"`               // to that site now
	RPOTarget float64        `json:"rpo_target_seconds"` // 0: none, or nothing may be lost
	Recorded  float64        `json:"recorded_seconds"`   // of writes, that the rest rests on
	MeanRate  float64        `json:"mean_bytes_per_second"`
	P95Rate   float64        `json:"p95_bytes_per_second"`
	PeakRate  float64        `json:"peak_bytes_per_second"` // of the busiest second
	Sync      SyncAdvice     `json:"sync"`
	Async     AsyncAdvice    `json:"async"`
	Journal   JournalAdvice  `json:"journal"`
	Advice    string         `json:"advice"` // sync, async, neither
	Reasons   []string       `json:"reasons"`
}

// SyncAdvice is what synchronous writes would be like.
type SyncAdvice struct {
	Bearable bool    `json:"bearable"`
	AddedP50 float64 `json:"added_p50_ms"` // to each write
	AddedP99 float64 `json:"added_p99_ms"`
	// OneByOne is how many writes a second a program can make at most that waits for each.
	OneByOne float64 `json:"one_by_one_writes_per_second"`
	// MaxDistanceKm is the length of fibre at which they would just be bearable, with nothing but fibre on the way.
	MaxDistanceKm float64 `json:"max_distance_km"`
}

// AsyncAdvice is what asynchronous writes would be like.
type AsyncAdvice struct {
	Bearable bool    `json:"bearable"`
	RPO      float64 `json:"rpo_seconds"` // the worst, had the recorded writes gone over this link
	RPOP95   float64 `json:"rpo_p95_seconds"`
	Backlog  float64 `json:"backlog_bytes"` // the largest
	// Needs is the bandwidth at which the RPO target, or else one minute, would have held.
	Needs float64 `json:"needs_bytes_per_second"`
	// Room is what it may send on average: what the link has for it, and no more than its transport and the link's bound allow.
	Room float64 `json:"room_bytes_per_second"`
}

// JournalAdvice is the ring that rides out an outage of the link without a resync.
type JournalAdvice struct {
	Outage float64 `json:"outage_seconds"` // that was asked about
	Needs  float64 `json:"needs_bytes"`    // size of the journal for it, at the worst time that was recorded
	Has    int64   `json:"has_bytes"`
	// Lasts is how long an outage the present journal rides out at the worst time.
	Lasts float64 `json:"lasts_seconds"`
}
