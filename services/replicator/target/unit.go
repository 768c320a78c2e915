package target

import (
	"bytes"
	"errors"
	"fmt"
)

// BlockSize is the logical block length of every unit, in bytes, and the physical one: blocks are mapped, unmapped and
// reported one by one. Transfers and unmaps in multiples of goodSize cost least, which the Block Limits page says.
const (
	BlockSize = 512
	goodSize  = 4096
)

// Op is what a Command asks of a unit.
type Op byte

// The operations of a unit.
const (
	// OpRead fills Data from Off.
	OpRead Op = iota + 1
	// OpWrite stores Data at Off.
	OpWrite
	// OpZero makes Len bytes from Off read as zeroes; space need not be given back.
	OpZero
	// OpUnmap makes Len bytes from Off read as zeroes and gives their space back where it can.
	OpUnmap
	// OpCompareAndWrite compares the bytes at Off with Compare and, when equal, stores Data there, as one act. When they
	// differ the result is a *MiscompareError and nothing is stored.
	OpCompareAndWrite
	// OpFlush makes everything durable whose done was called before.
	OpFlush
)

var opNames = [...]string{"", "read", "write", "zero", "unmap", "compare and write", "flush"}

func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("op %d", byte(o))
}

// Command is one operation. Off and Len are in bytes, multiples of BlockSize and within the unit; Len is len(Data)
// where there is data. Data and Compare are the unit's until done.
type Command struct {
	Op            Op
	Off, Len      int64
	Data, Compare []byte
	// FUA asks for this change to be durable before done, whatever the unit's durability.
	FUA bool
	// Session tells the commands of one session from those of others, for units that share themselves out.
	Session uint64
	// Atomic, of an OpWrite no longer than UnitInfo.MaxAtomicBytes, asks for all of Data or nothing: for every read, and
	// after a loss of power.
	Atomic bool
	// Alone says that the initiator waits for this command and nothing else: it sent the command when it had the answers to all others,
	// and none has come since. Then Submit may take the caller's time, until the command is durable.
	Alone bool
}

// UnitInfo describes a unit. It does not change while the unit is served, except for ReadOnly and, in a Resizer, SizeBytes.
type UnitInfo struct {
	SizeBytes int64 // a multiple of BlockSize
	// Serial is the disk's own number, the same at every site that has a copy; at most 36 characters are shown.
	Serial string
	// NAA is the identifier of this copy, different at each site, so that no host takes two sites for two paths.
	NAA [8]byte
	// Product is the INQUIRY product, at most 16 characters.
	Product string
	// WriteCache says that done of a write does not mean durable (WCE).
	WriteCache bool
	// ThinProvisioned says that OpUnmap gives space back (LBPME).
	ThinProvisioned bool
	ReadOnly        bool
	// Removable says that initiators may eject the medium and load it again (RMB); its data stays where it is.
	Removable bool
	// MaxAtomicBytes is the longest write that the unit carries out as a whole or not at all; 0: WRITE ATOMIC is not offered.
	MaxAtomicBytes int64
	// Sanitize says that the unit, a Sanitizer, offers SANITIZE.
	Sanitize bool
}

// Unit is the storage behind one LUN.
type Unit interface {
	Info() UnitInfo
	// Submit starts one command. done is called exactly once, from any goroutine, possibly before Submit returns. Submit
	// is called in CmdSN order by a connection's reader as soon as a command's data is complete, so writes get their order
	// here; it should not wait for a disk flush, but for a command that is Alone. Errors: *MiscompareError, and those of this package; any other is told to
	// the initiator as a medium error.
	Submit(cmd *Command, done func(error))
}

// Gated is a unit that can lose the right to answer. MayAnswer is asked just before an answer is written; once it says
// no, the session is dropped and the answer with it.
type Gated interface{ MayAnswer() bool }

// Mapper is a unit that knows where it is allocated, for GET LBA STATUS. Extent returns whether the block at off is mapped
// and how many bytes from there on (at least BlockSize) are alike. A block that holds anything but zeroes is never told
// unmapped. Extent is asked in the path of a session's commands, so it reads at most look bytes of content to find out.
type Mapper interface {
	Extent(off, look int64) (mapped bool, length int64, err error)
}

// Resizer is a unit whose size may grow while it is served. OnResize says what to call after Info tells a new size, from
// any goroutine; nil takes it back. Every initiator is then told CAPACITY DATA HAS CHANGED. A unit is served by one target
// at a time, so there is one such call; it does not wait for an initiator.
type Resizer interface{ OnResize(told func()) }

// Keeper is a unit that keeps a few bytes through a loss of power: the persistent reservations of initiators that asked for
// that (APTPL). A unit that is none refuses such a request.
type Keeper interface {
	// Kept is what was kept last, nil when nothing was. An error keeps the unit from being served: a reservation that cannot
	// be read is not taken for none.
	Kept() ([]byte, error)
	// Keep replaces it, durably on return. After an error, and after a crash on the way, the old or the new is there.
	Keep(b []byte) error
}

// What a unit may answer besides success.
var (
	// ErrReadOnly refuses a change; the initiator sees DATA PROTECT.
	ErrReadOnly = errors.New("unit is read only")
	// ErrFenced means that the unit lost the right to serve: the session is dropped without an answer.
	ErrFenced = errors.New("unit is fenced")
	// ErrNoSpace is a full disk; the initiator sees SPACE ALLOCATION FAILED and may stop the VM.
	ErrNoSpace = errors.New("no space left for the unit")
	// ErrSanitizing: everything the unit holds is being erased, and nothing else is done meanwhile.
	ErrSanitizing = errors.New("unit is being sanitized")
	// ErrSanitizeFailed: it was not erased, and nothing is done until it is.
	ErrSanitizeFailed = errors.New("sanitize failed")
	// ErrMedium is a failed disk.
	ErrMedium = errors.New("medium error")
)

// MiscompareError is the result of a comparison that failed. Offset is that of the first byte that differs, from the
// command's start.
type MiscompareError struct{ Offset int64 }

func (e *MiscompareError) Error() string { return fmt.Sprintf("miscompare at byte %d", e.Offset) }

// Differs is the first offset at which a and b, of one length, are unlike; -1 when they are alike. Units compare with it.
func Differs(a, b []byte) int {
	const part = 512
	for off := 0; off < len(a); off += part {
		x, y := a[off:min(off+part, len(a))], b[off:min(off+part, len(a))]
		if bytes.Equal(x, y) {
			continue
		}
		for i := range x {
			if x[i] != y[i] {
				return off + i
			}
		}
	}
	return -1
}
