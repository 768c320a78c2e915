package journal

import (
	"iter"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// LineageEntry is one epoch a copy has lived through: Site began Epoch with the change First.
type LineageEntry struct {
	Epoch domain.Epoch  `json:"epoch"`
	First domain.LSN    `json:"first"`
	Site  domain.SiteID `json:"site"`
}

const (
	// MaxLineage bounds the lineage kept: the newest 128 epochs.
	MaxLineage = 128
	// MaxMeta bounds SetMeta, in bytes.
	MaxMeta = 2048
	// MinSize is the least Config.SizeBytes.
	MinSize = 16 << 20
)

// Config names a journal.
type Config struct {
	Group domain.GroupID
	// SizeBytes is the size of the file, superblocks included: a multiple of PageSize, at least MinSize. For Open, 0
	// takes the size the file has.
	SizeBytes int64

	seam seam // zero outside this package's tests
}

// State is a snapshot of a journal.
type State struct {
	Group   domain.GroupID
	Epoch   domain.Epoch // 0 before the first RaiseEpoch
	Lineage []LineageEntry
	// TailLSN is the first LSN Read can give; LastLSN+1 when nothing is retained.
	TailLSN domain.LSN
	// LastLSN is the last durable change.
	LastLSN domain.LSN
	// ReleasedLSN is the last Release (or Reset): the volumes were flushed up to there.
	ReleasedLSN domain.LSN
	// CommitLSN is the highest commit LSN a frame has carried (kept when that frame is released or forgotten), or
	// ReleasedLSN when that is higher. At most LastLSN.
	CommitLSN domain.LSN
	Next      Next
	// Cut is set when Truncate ended the journal inside a frame: only RaiseEpoch goes on.
	Cut bool
	// UsedBytes is what Append cannot use of the ring's SizeBytes.
	UsedBytes, SizeBytes int64
	// Meta is what SetMeta stored.
	Meta []byte
	// Broken is the I/O failure that broke the journal, nil while it works.
	Broken error
}

// Next says what the next frame must carry.
type Next struct {
	Epoch domain.Epoch
	// Number and PrevHeaderCRC are 1 and 0 at the beginning of an epoch. Number is 0 after a Reset: then any frame
	// that begins at FirstLSN is taken, whatever its number and previous header.
	Number        uint64
	FirstLSN      domain.LSN
	PrevHeaderCRC uint32
}

// Recovered is what Open found.
type Recovered struct {
	State
	// Torn is set when the last frame was not whole: normal after a crash, it was never acknowledged.
	Torn *Torn
	// LostSuperblock says that one of the two superblocks was damaged (normal after a crash while it was being
	// written); it has been mended.
	LostSuperblock bool

	frames func(yield func(*Frame, error) bool)
}

// Torn is the remnant of a frame that a crash interrupted.
type Torn struct {
	Offset int64  // in the file
	Number uint64 // the frame's number
	Reason string
}

// Frames gives the frames still in the ring, oldest first, read from the file one at a time: a frame and its Data are
// valid until the next one. The first may begin at or before ReleasedLSN, and a frame that Truncate cut has only the
// entries it kept. A second value that is not nil ends it. Use it before the first Release, Truncate or Reset.
func (r *Recovered) Frames() iter.Seq2[*Frame, error] { return r.frames }
