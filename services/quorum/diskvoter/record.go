package diskvoter

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

const (
	slotBytes = 4096 // from one slot to the next, whatever the block
	headBytes = 24
	maxName   = 63
	offCRC    = 16
)

var (
	recordMagic = [8]byte{'H', 'F', 'V', 'O', 'T', 'E', 0, 1}
	labelMagic  = [8]byte{'H', 'F', 'V', 'D', 'I', 'S', 'K', 1}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// dictionary is part of the format: what most records say anyway.
const dictionary = `"old":{"share":1,"disk":1,"witness":1},"config":{"version":1,"weights":{"a":1,"b":1,"w":1}}}}` +
	`{"promised":72057594037927936,"v_epoch":72057594037927936,"v_holder":"","g":6000000000,"reserved_for":"","hb":1,"reg":{"we":72057594037927936,"seq":1,"in_sync":["a","b"],"counter":0,"config":{"version":1,"weights":{`

func key(cluster string, group domain.GroupID) string { return cluster + "\x00" + string(group) }

// first is the slot from which on a key is looked for, of so many.
func first(key string, slots int64) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return int64(h.Sum64() % uint64(slots))
}

// encode makes the block of a record. One that is too long for it is domain.ErrInvalid.
func encode(key string, version uint64, rec core.Record, block int) ([]byte, error) {
	body, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode vote record: %w", err)
	}
	var packed bytes.Buffer
	w, err := flate.NewWriterDict(&packed, flate.BestCompression, []byte(dictionary))
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("encode vote record: %w", err)
	}
	if n := headBytes + len(key) + packed.Len(); n > block {
		return nil, fmt.Errorf("vote record takes %d bytes, the voting disk's blocks have %d: use a LUN with blocks of 4096 bytes, or shorter names of voters: %w", n, block, domain.ErrInvalid)
	}
	out := make([]byte, block)
	copy(out, recordMagic[:])
	binary.LittleEndian.PutUint64(out[8:], version)
	binary.LittleEndian.PutUint16(out[20:], uint16(packed.Len()))
	out[22] = byte(len(key))
	copy(out[headBytes:], key)
	copy(out[headBytes+len(key):], packed.Bytes())
	binary.LittleEndian.PutUint32(out[offCRC:], sum(out))
	return out, nil
}

func sum(block []byte) uint32 {
	c := crc32.Update(0, castagnoli, block[:offCRC])
	c = crc32.Update(c, castagnoli, make([]byte, 4))
	return crc32.Update(c, castagnoli, block[offCRC+4:])
}

// decode reads a block that is not empty. Anything that encode did not make is ErrCorrupt.
func decode(block []byte) (key string, version uint64, rec core.Record, err error) {
	n, k := int(binary.LittleEndian.Uint16(block[20:])), int(block[22])
	if [8]byte(block[:8]) != recordMagic || binary.LittleEndian.Uint32(block[offCRC:]) != sum(block) || headBytes+k+n > len(block) {
		return "", 0, rec, ErrCorrupt
	}
	key, version = string(block[headBytes:headBytes+k]), binary.LittleEndian.Uint64(block[8:])
	r := flate.NewReaderDict(bytes.NewReader(block[headBytes+k:headBytes+k+n]), []byte(dictionary))
	body, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if err == nil {
		err = json.Unmarshal(body, &rec)
	}
	if err != nil || version == 0 {
		return "", 0, core.Record{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return key, version, rec, nil
}

func empty(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
