package journal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/journal/vfs"
)

// someFrame makes a valid frame of up to n entries.
func someFrame(rng *rand.Rand, n int) *Frame {
	f := &Frame{Group: "erp", Epoch: 1 + 7<<8, Number: 1 + rng.Uint64N(1e6), FirstLSN: 1 + 3e9, Time: time.Unix(0, rng.Int64N(2e18)),
		PrevHeaderCRC: rng.Uint32()}
	payload := 0
	for range 1 + rng.IntN(n) {
		e := Entry{Volume: uint16(rng.UintN(70000)), Op: Op(1 + rng.IntN(5)), Off: rng.Int64N(1 << 50), Len: 1 + rng.Int64N(1<<40)}
		switch e.Op {
		case OpWrite:
			e.Len = 1 + rng.Int64N(9000)
			e.Data = make([]byte, e.Len)
			for i := range e.Data {
				e.Data[i] = byte(rng.Uint32())
			}
			payload += len(e.Data) + payloadAlign
		case OpFlush:
			e.Off, e.Len = 0, 0
		case OpMarker:
			if e.Len = rng.Int64N(MaxMarkerBytes); e.Len > 0 && rng.IntN(2) == 0 {
				e.Data = bytes.Repeat([]byte{'l'}, int(e.Len))
				payload += payloadAlign
			} else {
				e.Len = 0
			}
		}
		if payload > MaxFramePayload {
			break
		}
		f.Entries = append(f.Entries, e)
	}
	f.LastLSN = f.FirstLSN + domain.LSN(len(f.Entries)) - 1
	f.CommitLSN = f.FirstLSN - 1
	return f
}

func TestDecodeGivesWhatWasEncoded(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{1, 2, 5, 124, 125, 400} {
		for range 20 {
			f := someFrame(rng, n)
			b, err := Encode(f)
			if err != nil {
				t.Fatal(err)
			}
			if len(b)%PageSize != 0 || len(b) > MaxFrameBytes || !vfs.IsAligned(b) {
				t.Fatalf("encoded to %d bytes", len(b))
			}
			got, err := Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			f.HeaderCRC = HeaderCRC(b)
			if !reflect.DeepEqual(f, got) {
				t.Fatalf("decoded\n%+v, want\n%+v", got, f)
			}
		}
	}
}

func TestOneBuilderMakesTheSameBytesWhateverItHeldBefore(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	b := NewBuilder()
	for range 50 {
		f := someFrame(rng, 200)
		want, err := Encode(f)
		if err != nil {
			t.Fatal(err)
		}
		b.Reset(f.Group, f.Epoch, f.Number, f.FirstLSN)
		for _, e := range f.Entries {
			if !b.Add(e.Volume, e.Op, e.Off, e.Len, e.Data) {
				t.Fatal("does not fit")
			}
		}
		if got := b.Finish(f.CommitLSN, f.PrevHeaderCRC, f.Time); !bytes.Equal(got, want) {
			t.Fatal("bytes of the frame before are left in this one")
		}
	}
}

func TestEveryChangedByteIsNoticed(t *testing.T) {
	f := someFrame(rand.New(rand.NewPCG(3, 3)), 6)
	f.Entries = append(f.Entries, Entry{Op: OpWrite, Len: 5000, Data: make([]byte, 5000)})
	b, err := Encode(f)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x10
		if _, err := Decode(b); !errors.Is(err, ErrBadFrame) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		b[i] ^= 0x10
	}
	for _, n := range []int{0, 1, headerSize, PageSize, len(b) - PageSize, len(b) - 1} {
		if _, err := Decode(b[:n]); !errors.Is(err, ErrBadFrame) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if _, err := Decode(append(bytes.Clone(b), make([]byte, PageSize)...)); !errors.Is(err, ErrBadFrame) {
		t.Fatal("a page too many is not noticed")
	}
}

func TestBuilderKeepsTheLimits(t *testing.T) {
	b := NewBuilder()
	b.Reset("erp", 1, 1, 1)
	for name, ok := range map[string]bool{
		"empty write":       b.Add(0, OpWrite, 0, 0, nil),
		"length not data's": b.Add(0, OpWrite, 0, 2, []byte{1}),
		"negative offset":   b.Add(0, OpWrite, -1, 1, []byte{1}),
		"overflow":          b.Add(0, OpZero, 1<<62, 1<<62, nil),
		"empty zero":        b.Add(0, OpZero, 0, 0, nil),
		"flush of a range":  b.Add(0, OpFlush, 0, 1, nil),
		"unknown op":        b.Add(0, 9, 0, 1, nil),
		"too large":         b.Add(0, OpWrite, 0, MaxFramePayload+1, make([]byte, MaxFramePayload+1)),
	} {
		if ok {
			t.Errorf("%s was taken", name)
		}
	}
	if b.Len() != 0 || b.Full() {
		t.Fatalf("%d entries", b.Len())
	}
	if !b.Add(0, OpWrite, 0, MaxFramePayload, make([]byte, MaxFramePayload)) || !b.Full() || b.Add(0, OpWrite, 0, 1, []byte{1}) {
		t.Fatal("one write of the largest size fills a frame exactly")
	}
	for b.Add(1, OpUnmap, 0, 4096, nil) {
	}
	if b.Len() != MaxFrameEntries {
		t.Fatalf("%d entries, want %d", b.Len(), MaxFrameEntries)
	}
	f, err := Decode(b.Finish(0, 0, time.Unix(1, 0)))
	if err != nil || len(f.Entries) != MaxFrameEntries || MaxFrameBytes >= 8<<20 {
		t.Fatalf("the largest frame: %v", err)
	}
}

// FuzzDecode: never panics, never takes more than one whole frame, and what it takes is canonical.
func FuzzDecode(f *testing.F) {
	rng := rand.New(rand.NewPCG(4, 4))
	for _, n := range []int{1, 3, 130} {
		b, err := Encode(someFrame(rng, n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, resummed(b)} {
			frame, err := Decode(b)
			if err != nil {
				if !errors.Is(err, ErrBadFrame) {
					t.Fatalf("%v is not ErrBadFrame", err)
				}
				continue
			}
			again, err := Encode(frame)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("accepted bytes that Encode does not make (%v)", err)
			}
		}
	})
}

// resummed gives b a right header CRC, so that the fuzzer gets behind it.
func resummed(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) < headerSize {
		return b
	}
	h, err := parseFixed(b)
	if err != nil || int64(len(b)) < headerLen(h.count) {
		return b
	}
	c := headerCRC(b[:headerLen(h.count)])
	b[offHeaderCRC], b[offHeaderCRC+1], b[offHeaderCRC+2], b[offHeaderCRC+3] = byte(c), byte(c>>8), byte(c>>16), byte(c>>24)
	return b
}

// FuzzSuperblock: never panics, and what it takes is canonical.
func FuzzSuperblock(f *testing.F) {
	s := superblock{gen: 7, fileSize: 1 << 24, group: "erp", epoch: 5, lineage: []LineageEntry{{Epoch: 5, First: 1, Site: "a"}}, meta: []byte("x")}
	f.Add(bytes.Clone(s.encode(make([]byte, slotSize))))
	f.Fuzz(func(t *testing.T, b []byte) {
		slot := make([]byte, slotSize)
		copy(slot, b)
		if n := int(uint32(slot[8]) | uint32(slot[9])<<8 | uint32(slot[10])<<16 | uint32(slot[11])<<24); n >= superFixed && n <= slotSize {
			c := superCRC(slot[:n])
			slot[12], slot[13], slot[14], slot[15] = byte(c), byte(c>>8), byte(c>>16), byte(c>>24)
		}
		s, err := decodeSuper(slot)
		if err != nil {
			return
		}
		again, err := decodeSuper(append(bytes.Clone(s.encode(make([]byte, slotSize))), make([]byte, slotSize)...)[:slotSize])
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("%+v became %+v (%v)", s, again, err)
		}
	})
}

// TestFuzzCorpus writes the committed corpus when asked to, and holds it against what the format says today.
func TestFuzzCorpus(t *testing.T) {
	dir := filepath.Join("testdata", "fuzz", "FuzzDecode")
	if os.Getenv("HOLDFAST_WRITE_CORPUS") != "" {
		writeCorpus(t, dir)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) < 5 {
		t.Fatalf("%d corpus files: %v", len(files), err)
	}
}

func writeCorpus(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	one := &Frame{Group: "erp", Epoch: 257, Number: 1, FirstLSN: 1, Time: time.Unix(1, 0),
		Entries: []Entry{{Op: OpWrite, Len: 3, Data: []byte("abc")}, {Op: OpZero, Len: 512}, {Op: OpUnmap, Off: 512, Len: 512}, {Op: OpFlush}, {Op: OpMarker, Off: 9}}}
	good, err := Encode(one)
	if err != nil {
		t.Fatal(err)
	}
	set := func(at int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], v)
		return b
	}
	for name, b := range map[string][]byte{
		"good":              good,
		"count-huge":        set(offCount, 0xff, 0xff, 0xff, 0xff),
		"count-more":        set(offCount, 200),
		"payload-huge":      set(offPayloadLen, 0, 0, 0, 0, 0, 0, 0, 0x7f),
		"payload-none":      set(offPayloadLen, 0, 0),
		"group-long":        set(offGroup, 255),
		"entry-overflow":    set(headerSize+8, 255, 255, 255, 255, 255, 255, 255, 127),
		"entry-len-huge":    set(headerSize+16, 255, 255, 255, 255, 255, 255, 255, 255),
		"entry-payload-off": set(headerSize+24, 1, 0, 0, 0, 0, 0, 0, 128),
		"truncated":         good[:PageSize],
	} {
		text := "go test fuzz v1\n[]byte(" + strconv.Quote(string(b)) + ")\n"
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
