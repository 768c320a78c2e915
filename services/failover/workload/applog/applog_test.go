package applog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// image is a disk in memory.
type image []byte

func (m image) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m).ReadAt(p, off) }

// build writes a log of n records on a disk of the given number of slots.
func build(t testing.TB, size, slotCount, n int) (image, Header) {
	t.Helper()
	h := Header{RecordSize: size, Capacity: uint64(slotCount), Generation: 1, LogID: [16]byte{1, 2, 3}, VM: "erp-1"}
	m := make(image, DataOffset+size*slotCount)
	put(t, m, h, 1, n)
	return m, h
}

func put(t testing.TB, m image, h Header, from, to int) {
	t.Helper()
	b, err := h.Encode()
	if err != nil {
		t.Fatal(err)
	}
	copy(m[h.Slot():], b)
	var prev Hash
	if from > 1 {
		_, prev, err = DecodeRecord(m[h.Offset(uint64(from-1)):h.Offset(uint64(from))])
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := from; i <= to; i++ {
		rec := Record{
			Seq: uint64(i), Prev: prev, Epoch: domain.NewEpoch(0, 1, 1), Site: "a", VM: "erp-1", Instance: "boot-1", LogID: h.LogID,
			WallNS: int64(1000 + i), BootNS: int64(i), Payload: fmt.Appendf(nil, "payload %d", i),
		}
		b, hash, err := rec.Encode(h.RecordSize)
		if err != nil {
			t.Fatal(err)
		}
		copy(m[h.Offset(uint64(i)):], b)
		prev = hash
	}
}

func TestRecordSurvivesEncoding(t *testing.T) {
	want := Record{
		Seq: 7, Prev: Hash{9}, Epoch: domain.NewEpoch(1, 12, 2), Site: "b", VM: "erp-1", Instance: "01ABC", LogID: [16]byte{5}, Volume: 3,
		Repaired: true, WallNS: -5, BootNS: 12, Payload: bytes.Repeat([]byte{0xee}, MaxPayload(512)),
	}
	b, hash, err := want.Encode(512)
	if err != nil {
		t.Fatal(err)
	}
	got, hash2, err := DecodeRecord(b)
	if err != nil {
		t.Fatal(err)
	}
	if hash != hash2 || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %v %v\nwant %v %v", got, hash2, want, hash)
	}
	for i := range b {
		b[i] ^= 0x40
		if _, _, err := DecodeRecord(b); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("byte %d changed: err %v, want ErrCorrupt", i, err)
		}
		b[i] ^= 0x40
	}
}

func TestEncodeRefusesWhatDoesNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		r    Record
		size int
	}{
		"size":     {Record{Seq: 1}, 1000},
		"payload":  {Record{Seq: 1, Payload: make([]byte, MaxPayload(512)+1)}, 512},
		"sequence": {Record{}, 512},
		"name":     {Record{Seq: 1, Site: domain.SiteID(strings.Repeat("x", 33))}, 512},
	} {
		if _, _, err := c.r.Encode(c.size); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestScanJudgesThePrefix(t *testing.T) {
	type world struct {
		m image
		h Header
	}
	at := func(w world, seq int) []byte { return w.m[w.h.Offset(uint64(seq)):w.h.Offset(uint64(seq+1))] }
	cases := []struct {
		name    string
		change  func(w *world)
		records uint64
		broken  uint64
		torn    bool
	}{
		{"whole", func(*world) {}, 20, 0, false},
		{"torn tail", func(w *world) { at(*w, 21)[3] = 1 }, 20, 0, true},
		{"last record half written", func(w *world) { clear(at(*w, 20)[100:]) }, 19, 0, true},
		{"hole", func(w *world) { clear(at(*w, 10)) }, 9, 10, false},
		{"damage in the middle", func(w *world) { at(*w, 10)[200] ^= 1 }, 9, 10, true},
		{"data far beyond the end", func(w *world) { at(*w, 40)[0] = 1 }, 20, 21, false},
		{"two records swapped", func(w *world) {
			a, b := at(*w, 5), at(*w, 6)
			c := bytes.Clone(a)
			copy(a, b)
			copy(b, c)
		}, 4, 5, false},
		{"tail of another history", func(w *world) {
			other, _ := build(t, 512, 40, 14)
			put(t, other, w.h, 15, 20)
			o := world{other, w.h}
			rec, _, _ := DecodeRecord(at(o, 14))
			rec.WallNS++
			b, _, _ := rec.Encode(512)
			copy(at(*w, 14), b)
		}, 14, 15, false},
		{"epoch falls", func(w *world) {
			rec, _, _ := DecodeRecord(at(*w, 20))
			rec.Epoch--
			b, _, _ := rec.Encode(512)
			copy(at(*w, 20), b)
		}, 19, 20, false},
		{"file ends at a record", func(w *world) { w.m = w.m[:w.h.Offset(21)] }, 20, 0, false},
		{"file ends within a record", func(w *world) { w.m = w.m[:w.h.Offset(20)+100] }, 19, 0, true},
		{"empty", func(w *world) { clear(w.m[DataOffset:]) }, 0, 0, false},
		{"full", func(w *world) { w.m, w.h = build(t, 512, 40, 40) }, 40, 0, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m, h := build(t, 512, 40, 20)
			w := &world{m, h}
			c.change(w)
			r, err := Scan(w.m)
			if err != nil {
				t.Fatal(err)
			}
			if r.Records != c.records || r.BrokenAt != c.broken || r.PrefixOK != (c.broken == 0) || r.TornTail != c.torn {
				t.Fatalf("got %+v", r)
			}
			if c.broken != 0 && r.Problem == "" {
				t.Fatal("a broken prefix without a problem")
			}
		})
	}
}

func TestScanFindsDataBeyondSeveralReads(t *testing.T) {
	m, h := build(t, 4096, 400, 3)
	m[h.Offset(390)+7] = 1
	r, err := Scan(m)
	if err != nil || r.PrefixOK || r.BrokenAt != 4 {
		t.Fatalf("%+v %v", r, err)
	}
	r, err = ScanWith(m, Options{Lookahead: 64 << 10})
	if err != nil || !r.PrefixOK || r.Records != 3 {
		t.Fatalf("with lookahead: %+v %v", r, err)
	}
}

func TestScanTellsTheBootsApart(t *testing.T) {
	m, h := build(t, 512, 40, 3)
	_, prev, _ := DecodeRecord(m[h.Offset(3):h.Offset(4)])
	b, _, _ := Record{Seq: 4, Prev: prev, Epoch: domain.NewEpoch(0, 2, 2), Site: "b", Instance: "boot-2", LogID: h.LogID, WallNS: 9}.Encode(512)
	copy(m[h.Offset(4):], b)
	var seen []uint64
	r, err := ScanWith(m, Options{Each: func(r Record, _ Hash) { seen = append(seen, r.Seq) }})
	if err != nil || len(r.Spans) != 2 || len(seen) != 4 {
		t.Fatalf("%+v %v %v", r, seen, err)
	}
	if s := r.Spans[1]; s.Instance != "boot-2" || s.Site != "b" || s.FirstSeq != 4 || s.LastSeq != 4 {
		t.Fatalf("second span %+v", s)
	}
}

func TestTornHeaderLeavesTheOneBefore(t *testing.T) {
	m, h := build(t, 512, 40, 3)
	h.Generation = 2
	b, _ := h.Encode()
	copy(m[h.Slot():], b[:100])
	r, err := Scan(m)
	if err != nil || r.Header.Generation != 1 || r.Records != 3 {
		t.Fatalf("%+v %v", r, err)
	}
	copy(m[h.Slot():], b)
	if r, err = Scan(m); err != nil || r.Header.Generation != 2 {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestBlankAndForeignDisksAreToldApart(t *testing.T) {
	if _, err := Scan(make(image, 1<<20)); !errors.Is(err, ErrNotLog) {
		t.Errorf("blank: %v, want ErrNotLog", err)
	}
	if _, err := Scan(bytes.NewReader(nil)); !errors.Is(err, ErrNotLog) {
		t.Errorf("empty file: %v, want ErrNotLog", err)
	}
	m := make(image, 1<<20)
	copy(m, "something else")
	if _, err := Scan(m); !errors.Is(err, ErrCorrupt) {
		t.Errorf("foreign: %v, want ErrCorrupt", err)
	}
}

// TestAnyCutOfTheWriteOrderIsAPrefix crashes a writer at every point, with a torn last write, and expects no complaint;
// then loses one earlier write, and expects one.
func TestAnyCutOfTheWriteOrderIsAPrefix(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	whole, h := build(t, 512, 64, 64)
	for range 500 {
		cut := rng.IntN(64)
		m := make(image, len(whole))
		copy(m, whole[:h.Offset(uint64(cut+1))])
		tear := rng.IntN(512)
		copy(m[h.Offset(uint64(cut+1)):], whole[h.Offset(uint64(cut+1)):][:tear])
		r, err := Scan(m)
		if err != nil || !r.PrefixOK || r.Records != uint64(cut) {
			t.Fatalf("cut %d tear %d: %+v %v", cut, tear, r, err)
		}
		if cut < 2 {
			continue
		}
		lost := 1 + rng.IntN(cut-1)
		clear(m[h.Offset(uint64(lost)):h.Offset(uint64(lost+1))])
		if r, err = Scan(m); err != nil || r.PrefixOK || r.BrokenAt != uint64(lost) {
			t.Fatalf("cut %d lost %d: %+v %v", cut, lost, r, err)
		}
	}
}

func TestGroupIsWholeOnlyAsAPrefixAcrossVolumes(t *testing.T) {
	rep := func(seqs ...uint64) (out []Report) {
		for _, s := range seqs {
			out = append(out, Report{PrefixOK: true, LastSeq: s})
		}
		return out
	}
	for _, c := range []struct {
		name string
		in   []Report
		ok   bool
	}{
		{"one", rep(4), true}, {"equal", rep(4, 4, 4), true}, {"mid append", rep(5, 4, 4), true}, {"nearly", rep(5, 5, 4), true},
		{"second ahead", rep(4, 5), false}, {"two apart", rep(6, 4), false}, {"two apart in steps", rep(6, 5, 4), false},
		{"broken", []Report{{Problem: "x"}}, false},
	} {
		if err := CheckGroup(c.in); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	m, h := build(f, 512, 4, 2)
	f.Add([]byte(m))
	f.Add([]byte(m[h.Offset(1):h.Offset(2)]))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = DecodeRecord(b)
		_, _ = DecodeHeader(b)
		_, _ = Scan(io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b))))
	})
}
