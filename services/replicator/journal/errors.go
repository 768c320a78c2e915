package journal

import (
	"errors"
	"fmt"
)

// The sentinels of the journal. Append and RaiseEpoch also return domain.ErrStaleEpoch for an epoch lower than the
// journal's own.
var (
	// ErrEpochNotRaised refuses a frame of an epoch above the journal's: RaiseEpoch comes first.
	ErrEpochNotRaised = errors.New("epoch not raised in the journal")
	// ErrGap refuses a frame that is not the successor of the last one (number, LSN or header chain), or an epoch
	// that does not go on at the LSN after the last.
	ErrGap = errors.New("not the next frame of the journal")
	// ErrFull refuses a frame for which the ring has no room until Release frees some. The journal stays usable.
	ErrFull = errors.New("journal full")
	// ErrBroken is what every change returns for ever after an I/O failure: what is durable is unknown until the file
	// has been closed, opened again and recovered. It is never retried as success.
	ErrBroken = errors.New("journal broken by an I/O failure")
	// ErrNotRetained means that frames asked for were released (or the cut lies below what was released).
	ErrNotRetained = errors.New("not retained in the journal")
	// ErrCut refuses a frame of the same epoch after Truncate cut inside a frame: only a new epoch goes on from there.
	ErrCut = errors.New("journal ends inside a frame, only a new epoch can go on")
	// ErrCorrupt means damage that a crash alone cannot cause. It comes as *CorruptError.
	ErrCorrupt = errors.New("journal corrupt")
	// ErrMismatch means the file is a journal, but not the one asked for: other group, other size, other version.
	ErrMismatch = errors.New("not the journal asked for")
	// ErrExists refuses to create a journal over an existing file.
	ErrExists = errors.New("journal file exists")
	// ErrBadFrame is the decoder's no: the bytes are not one whole, undamaged frame.
	ErrBadFrame = errors.New("bad frame")
	// ErrClosed follows Close.
	ErrClosed = errors.New("journal closed")
)

// CorruptError says where a journal is damaged. errors.Is(err, ErrCorrupt) holds.
type CorruptError struct {
	Path   string // file
	Offset int64  // byte offset in the file of the damaged frame or superblock
	Number uint64 // frame number expected there, 0 when it is not known
	Reason string // what was found, and how it is known not to be a torn tail
}

// Error names file, offset, frame and the mend.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal %s corrupt at offset %d, frame %d: %s; nothing was changed; mend: make sure that the other site "+
		"serves the group and shows this one out of sync, then move the group's whole folder aside, not the journal alone", e.Path, e.Offset, e.Number, e.Reason)
}

// Unwrap makes errors.Is(err, ErrCorrupt) hold.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }
