package workload

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

var (
	// ErrFull means that the log's capacity is used up: a log never wraps.
	ErrFull = errors.New("the log is full")
	// ErrBrokenLog refuses to boot on a log that is not a prefix of what was written.
	ErrBrokenLog = errors.New("the log on the disk is broken")
	// ErrPayload refuses a payload larger than a record holds.
	ErrPayload = errors.New("the payload is too large")
)

// Disk is one of the VM's disks.
type Disk interface {
	io.ReaderAt
	// WriteDurable writes p at off and returns when it is durable. p and off are multiples of BlockSize. An error means
	// that the write may or may not have happened.
	WriteDurable(ctx context.Context, p []byte, off int64) error
	// Size is in bytes.
	Size() int64
	// BlockSize is in bytes.
	BlockSize() int
}

// Spec is one boot of a VM.
type Spec struct {
	VM       domain.VMID    `json:"vm"`
	Group    domain.GroupID `json:"group"`
	Site     domain.SiteID  `json:"site"`
	Host     domain.HostID  `json:"host"`
	Instance string         `json:"instance"` // of this boot, see NewInstance
	Epoch    domain.Epoch   `json:"epoch"`
	// RecordSize is used when the log is created: a power of two from 512 to 4096 bytes. 0 means the largest block size
	// of the disks, at least 512.
	RecordSize int `json:"record_size,omitempty"`
}

// Deps are what a VM is given.
type Deps struct {
	// Gate says whether the VM may serve now; nil means always. Its error goes to the client.
	Gate func() error
	// Ledger keeps one line durably enough to survive the death of the process, before the append is acknowledged.
	Ledger func(ledger.Line) error
	Logger *slog.Logger // nil: silent
	Tracer trace.Tracer // nil: none
	// Wall is the wall clock; nil means time.Now. It only dates records.
	Wall func() time.Time
}

func (d Deps) withDefaults() Deps {
	if d.Gate == nil {
		d.Gate = func() error { return nil }
	}
	if d.Ledger == nil {
		d.Ledger = func(ledger.Line) error { return nil }
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Tracer == nil {
		d.Tracer = noop.NewTracerProvider().Tracer("")
	}
	if d.Wall == nil {
		d.Wall = time.Now
	}
	return d
}

// NewInstance draws a name for a boot: 16 hexadecimal digits.
func NewInstance() string {
	var b [8]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
