package group

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/clock"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/identity"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
	"github.com/holdfast-dr/holdfast/services/replicator/line"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
	"github.com/holdfast-dr/holdfast/services/replicator/transport"
)

// Timing is what a group's copy waits for. The zero value of a field takes its default.
type Timing struct {
	Pull          time.Duration // between two pulls of the lease (500 ms)
	Eps           float64       // clock-rate bound (0.01)
	TargetTimeout time.Duration // a write that waits so long for a sync target's position has lost it (2 s)
	LinkTimeout   time.Duration // the same when the connection is down as well (500 ms)
	Head          time.Duration // between two reports of the primary's head (250 ms)
	Retry         time.Duration // between two attempts to reach a target (250 ms)
	Checkpoint    time.Duration // between two checkpoints (5 s)
	Hold          time.Duration // what keeps writing waiting is told when it goes on for so long (1 s)
	Progress      time.Duration // between two reports of a resync or a comparison (10 s)
	LineAgain     time.Duration // before a line that was not to be had is tried again; doubles from one time to the next (30 s)
	LineUnreached time.Duration // this at most, while the target is not reached by it (5 min)
	LineMute      time.Duration // this at most, while it is and nothing comes by the line; forgotten once a line carried for so long (30 min)
}

func (t Timing) withDefaults() Timing {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&t.Pull, 500*time.Millisecond)
	def(&t.TargetTimeout, 2*time.Second)
	def(&t.LinkTimeout, 500*time.Millisecond)
	def(&t.Head, 250*time.Millisecond)
	def(&t.Retry, 250*time.Millisecond)
	def(&t.Checkpoint, 5*time.Second)
	def(&t.Hold, time.Second)
	def(&t.Progress, 10*time.Second)
	def(&t.LineAgain, 30*time.Second)
	def(&t.LineUnreached, 5*time.Minute)
	def(&t.LineMute, 30*time.Minute)
	if t.Eps <= 0 {
		t.Eps = 0.01
	}
	return t
}

// Portal is where a primary's volumes are served. Remove returns when no further answer can leave, and waits for every
// command in flight; target.Server does both.
type Portal interface {
	// Add serves a unit under a name. domain.ErrConflict when the name is taken.
	Add(iqn string, u target.Unit) error
	// Remove stops serving a name; domain.ErrNotFound when it is not served.
	Remove(iqn string) error
	// URL is how an initiator reaches a name.
	URL(iqn string) string
}

// Publisher takes facts. bus.Events is one.
type Publisher interface {
	Publish(ctx context.Context, id string, f event.Fact)
}

// Config is what a group's copy needs.
type Config struct {
	Site         domain.SiteID
	Dir          string // the group's own folder
	JournalBytes int64  // size of a new journal
	PipeBytes    int64  // bound of the pipe made here for a primary's frames
	Timing       Timing
	Mesh         *bus.Mesh
	Portal       Portal
	Events       Publisher
	Tracer       trace.Tracer
	Logger       *slog.Logger
	// Meter measures the commands of a volume; nil measures none.
	Meter func(domain.VolumeID) target.Meter
	// Quiesce holds guests still for application-consistent checkpoints; nil cannot.
	Quiesce    Quiescer
	ScrubEvery time.Duration // how often a primary compares each target's copy by itself; 0: never
	ScrubHeal  bool          // and heals what differs
	// CheckpointReserve is how many bytes of the disk are kept free of what is written to open checkpoints; 0: by the disk's size.
	CheckpointReserve int64
	// Owed is what the resyncs of all groups on that disk will take of it yet, in bytes; nil: only this group's are looked at.
	Owed func() int64
	// Healing is told once for each comparison that heals by the schedule, before the first write; nil is not told.
	Healing func(ctx context.Context, target domain.SiteID)
	// ResyncPace and ScrubPace bound what resyncs send and verifications read; nil: nothing does. Groups may share one.
	ResyncPace, ScrubPace *transport.Bound
	// Links are the ways to other sites that are bounded; all groups share them by tier.
	Links map[domain.SiteID]*transport.Link
	// Lines offers primaries a way to here past NATS; nil: there is none. Credentials prove this site on the lines it opens; nil: plain.
	Lines       *line.Server
	Credentials *identity.Credentials
	Memory      *Memory // shared by groups; by default each has one of its own
	// Now reads the clock that leases run on; clock.Now by default.
	Now func() clock.Time

	// free is how many bytes there is room for on the disk of a folder; false: that is not known.
	free func(dir string) (bytes uint64, known bool)
	// historyLost is told when checkpoints were given up that ought to have been kept.
	historyLost func(count int, reason string)
	// failpoint, in tests, makes named places of the code stop as if the process had been killed there.
	failpoint func(place string) error
	// files is where the journal and the history are kept; in tests, a file system that fails.
	files vfs.FS
}

const (
	defaultJournalBytes = 64 << 20
	defaultPipeBytes    = 32 << 20 // the NATS server sets it aside for each group: see natsd
)

func (c Config) withDefaults() Config {
	c.Timing = c.Timing.withDefaults()
	if c.JournalBytes <= 0 {
		c.JournalBytes = defaultJournalBytes
	}
	if c.PipeBytes <= 0 {
		c.PipeBytes = defaultPipeBytes
	}
	if c.Memory == nil {
		c.Memory = new(Memory)
	}
	if c.Now == nil {
		c.Now = clock.Now
	}
	if c.free == nil {
		c.free = freeBytes
	}
	if c.failpoint == nil {
		c.failpoint = func(string) error { return nil }
	}
	return c
}
