package line

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

const (
	magic        = 0x4e4c4648 // "HFLN" little-endian
	version      = 1
	versionBytes = 5 // of the hello: up to the version
	helloBytes   = versionBytes + tokenBytes + 4
	headBytes    = 12 // of a message
	ackBytes     = 40
	// maxMessage is a frame, and room for the head of an envelope around it.
	maxMessage = journal.MaxFrameBytes + journal.PageSize

	secretBytes = 32
	tokenBytes  = 43 // secretBytes in base64url
)

// What the target answers to a hello.
const (
	welcome      = 0
	unknownToken = 1
	otherVersion = 2
)

const flagResend = 1

const (
	helloTimeout = 5 * time.Second
	writeTimeout = 2 * time.Second
	pieceBytes   = 64 << 10 // of a message, that are given that time
	recordBytes  = 16 << 10 // the most a TLS record has
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	encoding   = base64.RawURLEncoding
)

// Offer is how a primary reaches a receiver: the address of its replicator, and what to show there. Whoever has the token may send.
type Offer = api.LineOffer

// Ack is what a target tells of its journal after a message, as api.Position does over the bus.
type Ack struct {
	LSN     domain.LSN // the last one in the journal
	Frame   uint64     // the last one in the journal
	Time    time.Time  // of that frame
	Arrived domain.LSN // the last one that came, in the journal or not yet
	Resend  bool       // what follows LSN is asked for again
}

// putHello writes the hello of a token of the right length.
func putHello(token string) []byte {
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, helloBytes), magic)
	b = append(append(b, version), token...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readHello gives the token of a hello. domain.ErrInvalid for what is none; errVersion for one of another version, of which nothing
// more is known.
func readHello(r io.Reader) (token string, err error) {
	var b [helloBytes]byte
	if _, err := io.ReadFull(r, b[:versionBytes]); err != nil {
		return "", err
	}
	if binary.LittleEndian.Uint32(b[:]) != magic {
		return "", fmt.Errorf("it begins with % x: %w: no hello of a line", b[:4], domain.ErrInvalid)
	}
	if b[4] != version {
		return "", errVersion
	}
	if _, err := io.ReadFull(r, b[versionBytes:]); err != nil {
		return "", err
	}
	if binary.LittleEndian.Uint32(b[helloBytes-4:]) != crc32.Checksum(b[:helloBytes-4], castagnoli) {
		return "", fmt.Errorf("its hello is damaged: %w", domain.ErrInvalid)
	}
	return string(b[versionBytes : helloBytes-4]), nil
}

func (a *Ack) put(b *[ackBytes]byte) {
	var at int64
	if !a.Time.IsZero() {
		at = a.Time.UnixNano()
	}
	var flags uint32
	if a.Resend {
		flags = flagResend
	}
	binary.LittleEndian.PutUint64(b[0:], uint64(a.LSN))
	binary.LittleEndian.PutUint64(b[8:], a.Frame)
	binary.LittleEndian.PutUint64(b[16:], uint64(at))
	binary.LittleEndian.PutUint64(b[24:], uint64(a.Arrived))
	binary.LittleEndian.PutUint32(b[32:], flags)
	binary.LittleEndian.PutUint32(b[36:], crc32.Checksum(b[:36], castagnoli))
}

// parseAck reads what put wrote. domain.ErrInvalid for what it did not.
func parseAck(b *[ackBytes]byte) (Ack, error) {
	if binary.LittleEndian.Uint32(b[36:]) != crc32.Checksum(b[:36], castagnoli) {
		return Ack{}, fmt.Errorf("an ack is damaged: %w", domain.ErrInvalid)
	}
	flags := binary.LittleEndian.Uint32(b[32:])
	if flags&^flagResend != 0 {
		return Ack{}, fmt.Errorf("an ack with flags %#x: %w: upgrade this site", flags, domain.ErrInvalid)
	}
	a := Ack{LSN: domain.LSN(binary.LittleEndian.Uint64(b[0:])), Frame: binary.LittleEndian.Uint64(b[8:]),
		Arrived: domain.LSN(binary.LittleEndian.Uint64(b[24:])), Resend: flags&flagResend != 0}
	if at := int64(binary.LittleEndian.Uint64(b[16:])); at != 0 {
		a.Time = time.Unix(0, at)
	}
	return a, nil
}

// head is what precedes a message: how long it is, and where it has zeroes that are not sent.
type head struct{ length, gapAt, gap int }

// headOf leaves out the padding of the first frame's header: a frame of one page is two.
func headOf(message []byte) head {
	from, to := journal.HeaderPadding(message)
	return head{len(message), from, to - from}
}

func (h head) put(b *[headBytes]byte) {
	binary.LittleEndian.PutUint32(b[0:], uint32(h.length))
	binary.LittleEndian.PutUint32(b[4:], uint32(h.gapAt))
	binary.LittleEndian.PutUint32(b[8:], uint32(h.gap))
}

// parseHead reads what put wrote. domain.ErrInvalid for a length out of bounds, or a gap that is not within it.
func parseHead(b *[headBytes]byte) (head, error) {
	length, at, gap := int64(binary.LittleEndian.Uint32(b[0:])), int64(binary.LittleEndian.Uint32(b[4:])), int64(binary.LittleEndian.Uint32(b[8:]))
	if err := checkLength(length); err != nil {
		return head{}, err
	}
	if at+gap > length || at > 0 && gap == 0 {
		return head{}, fmt.Errorf("a message of %d bytes without %d at %d: %w", length, gap, at, domain.ErrInvalid)
	}
	return head{int(length), int(at), int(gap)}, nil
}

// checkLength holds a message to its bounds.
func checkLength(n int64) error {
	if n < 1 || n > maxMessage {
		return fmt.Errorf("a message of %d bytes: %w: it has 1 to %d", n, domain.ErrInvalid, maxMessage)
	}
	return nil
}

// tune makes a connection ready for messages that are waited for. What fails of it costs time only.
func tune(nc net.Conn) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetNoDelay(true)
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 3 * time.Second, Count: 3})
}
