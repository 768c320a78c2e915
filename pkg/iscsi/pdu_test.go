package iscsi

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestDigestMatchesTheExamplesOfTheRFC(t *testing.T) {
	ascending := make([]byte, 32)
	for i := range ascending {
		ascending[i] = byte(i)
	}
	for _, c := range []struct {
		in   []byte
		want uint32
	}{
		{make([]byte, 32), 0x8a9136aa},
		{bytes.Repeat([]byte{0xff}, 32), 0x62a8ab43},
		{ascending, 0x46dd794e},
	} {
		if got := Digest(c.in); got != c.want {
			t.Errorf("digest %08x, want %08x", got, c.want)
		}
	}
}

func TestTypedPDUsSurviveTheWire(t *testing.T) {
	for name, digests := range map[string][2]bool{"plain": {}, "header": {true, false}, "data": {false, true}, "both": {true, true}} {
		t.Run(name, func(t *testing.T) {
			var wire bytes.Buffer
			w := NewWriter(&wire)
			w.SetDigests(digests[0], digests[1])
			cmd := SCSICommand{Final: true, Write: true, Attr: AttrSimple, LUN: EncodeLUN(1), ITT: 7, EDTL: 5, CmdSN: 9, ExpStatSN: 3, CDB: Write16CDB(1<<33, 5, true)}
			in := DataIn{Stat: Stat{1, 2, 3}, Final: true, HasStatus: true, LUN: EncodeLUN(300), ITT: 8, TTT: NoTag, DataSN: 2, Offset: 4096, Residual: Residual{Under: true, Count: 11}}
			var p PDU
			cmd.Put(&p)
			p.Data = []byte("hello")
			must(t, w.Write(&p))
			in.Put(&p)
			p.SetStat(1, 2, 3)
			p.Data = []byte("12345678")
			must(t, w.Write(&p))
			must(t, w.Flush())

			r := NewReader(&wire, nil, 64)
			r.SetDigests(digests[0], digests[1])
			var q PDU
			must(t, r.Next(&q))
			if got := ParseSCSICommand(&q); got != cmd || string(q.Data) != "hello" {
				t.Errorf("got %+v %q", got, q.Data)
			}
			if lba, n, ok := Range(cmd.CDB); lba != 1<<33 || n != 5 || !ok {
				t.Errorf("range %d %d %v", lba, n, ok)
			}
			if !r.Waiting() {
				t.Error("a whole PDU is in memory, Waiting says no")
			}
			dst := make([]byte, 8)
			must(t, r.Header(&q))
			must(t, r.Body(&q, dst))
			if got := ParseDataIn(&q); got != in || string(dst) != "12345678" {
				t.Errorf("got %+v %q", got, dst)
			}
			if err := r.Next(&q); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

func TestReaderRefusesLengthsBeforeItTakesMemory(t *testing.T) {
	var p PDU
	p.BHS[5], p.BHS[6], p.BHS[7] = 0xff, 0xff, 0xff
	r := NewReader(bytes.NewReader(p.BHS[:]), nil, DefaultMRDSL)
	if err := r.Next(&p); !errors.Is(err, ErrTooLong) {
		t.Fatalf("got %v", err)
	}
}

func TestDamagedDigestsAreSeen(t *testing.T) {
	var wire bytes.Buffer
	w := NewWriter(&wire)
	w.SetDigests(true, true)
	var p PDU
	NopOut{ITT: 1, TTT: NoTag}.Put(&p)
	p.Data = []byte("ping")
	must(t, w.Write(&p))
	must(t, w.Write(&p))
	must(t, w.Flush())
	for at, want := range map[int]error{3: ErrHeaderDigest, 49: ErrHeaderDigest, 53: ErrDataDigest, 58: ErrDataDigest} {
		b := bytes.Clone(wire.Bytes())
		b[at] ^= 1
		r := NewReader(bytes.NewReader(b), nil, 64)
		r.SetDigests(true, true)
		var q PDU
		if err := r.Next(&q); !errors.Is(err, want) {
			t.Errorf("bit flipped at %d: %v, want %v", at, err, want)
		}
		if errors.Is(want, ErrDataDigest) {
			if err := r.Next(&q); err != nil || string(q.Data) != "ping" {
				t.Errorf("the PDU after a bad data digest: %v", err)
			}
		}
	}
}

func TestLUNForms(t *testing.T) {
	for _, n := range []int{0, 1, 255, 256, 16383} {
		if got, ok := DecodeLUN(EncodeLUN(n)); got != n || !ok {
			t.Errorf("%d came back as %d %v", n, got, ok)
		}
	}
	for _, raw := range []uint64{1, 0xc101 << 48, 0x0100 << 48, 1<<48 | 1<<32} {
		if n, ok := DecodeLUN(raw); ok {
			t.Errorf("%016x taken for unit %d", raw, n)
		}
	}
}

func TestSenseRoundTrip(t *testing.T) {
	s := Sense{Key: SenseMiscompare, ASC: ASCMiscompare, Info: 77, HasInfo: true, FieldPointer: 2, InCDB: true, HasField: true}
	got, err := ResponseSense(AppendSense(nil, s))
	if err != nil || got != s {
		t.Fatalf("got %+v, %v", got, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestGrowingKeepsWhatWasReadAhead(t *testing.T) {
	var wire bytes.Buffer
	w := NewLoginWriter(&wire)
	for i := range 3 {
		var p PDU
		NopOut{ITT: uint32(i)}.Put(&p)
		p.Data = bytes.Repeat([]byte{byte(i)}, 2000)
		if err := w.Write(&p); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		w.Grow()
	}
	r := NewLoginReader(&wire, new(Pool))
	for i := range 3 {
		var p PDU
		if err := r.Next(&p); err != nil || p.ITT() != uint32(i) || len(p.Data) != 2000 || p.Data[1999] != byte(i) {
			t.Fatalf("PDU %d: %v", i, err)
		}
		r.Grow()
	}
}
