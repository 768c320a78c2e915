package transport

import (
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/s2"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

const (
	magic       = 0x5a504648 // "HFPZ" little-endian
	version     = 1
	algorithmS2 = 1
	headBytes   = 12
	// worth is the part of the original that a compressed message may have at most, in eighths: what saves less is not worth its
	// decompression.
	worth = 7
)

// Pack gives a frame as it is to be sent: in an envelope when that is enough smaller, else the frame itself. It keeps raw as
// it is.
func Pack(raw []byte, c domain.Compression) []byte {
	if c != domain.CompressionS2 || len(raw) > journal.MaxFrameBytes {
		return raw
	}
	out := make([]byte, headBytes+s2.MaxEncodedLen(len(raw)))
	binary.LittleEndian.PutUint32(out, magic)
	out[4], out[5] = version, algorithmS2
	binary.LittleEndian.PutUint32(out[8:], uint32(len(raw)))
	n := headBytes + len(s2.Encode(out[headBytes:], raw))
	if n > len(raw)*worth/8 {
		return raw
	}
	return append(make([]byte, 0, n), out[:n]...) // what waits to be acknowledged takes no more than it has
}

// Unpack gives the frame of a message of the pipe. A message that is no envelope is given back as it is. It takes no more memory
// than one frame may have, whatever the message says. domain.ErrInvalid for an envelope that cannot be opened.
func Unpack(message []byte) ([]byte, error) {
	if len(message) < headBytes || binary.LittleEndian.Uint32(message) != magic {
		return message, nil
	}
	n := int64(binary.LittleEndian.Uint32(message[8:]))
	if message[4] != version || message[5] != algorithmS2 || message[6] != 0 || message[7] != 0 {
		return nil, fmt.Errorf("open an envelope of version %d, algorithm %d: %w: upgrade this site", message[4], message[5], domain.ErrInvalid)
	}
	return Inflate(message[headBytes:], n, journal.MaxFrameBytes)
}

// Deflate compresses a piece of resync data; nil when that does not help.
func Deflate(raw []byte, c domain.Compression) []byte {
	if c != domain.CompressionS2 || len(raw) == 0 {
		return nil
	}
	if out := s2.Encode(nil, raw); len(out) <= len(raw)*worth/8 {
		return out
	}
	return nil
}

// Inflate undoes Deflate. length is what the sender says the result has, most what it may have: neither of them nor the data
// makes it take more memory than that.
func Inflate(data []byte, length, most int64) ([]byte, error) {
	if length < 0 || length > most {
		return nil, fmt.Errorf("decompress %d bytes to %d: %w: %d are the most", len(data), length, domain.ErrInvalid, most)
	}
	if n, err := s2.DecodedLen(data); err != nil || int64(n) != length {
		return nil, fmt.Errorf("decompress %d bytes to %d: %w: damaged, the data says %d: %w", len(data), length, domain.ErrInvalid, n, orDamaged(err))
	}
	out, err := s2.Decode(make([]byte, length), data)
	if err != nil {
		return nil, fmt.Errorf("decompress %d bytes to %d: %w: %w", len(data), length, domain.ErrInvalid, err)
	}
	return out, nil
}

func orDamaged(err error) error {
	if err == nil {
		return s2.ErrCorrupt
	}
	return err
}
