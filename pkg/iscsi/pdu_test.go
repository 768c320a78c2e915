package iscsi

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
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

// numbered writes PDUs of so many bytes of data each, in one batch.
func numbered(t *testing.T, w *Writer, sizes ...int) {
	t.Helper()
	for i, n := range sizes {
		var p PDU
		NopOut{ITT: uint32(i)}.Put(&p)
		p.Data = bytes.Repeat([]byte{byte(i + 1)}, n)
		must(t, w.Write(&p))
	}
	must(t, w.Flush())
}

func isNumbered(t *testing.T, r *Reader, sizes ...int) {
	t.Helper()
	for i, n := range sizes {
		var p PDU
		if err := r.Next(&p); err != nil || p.ITT() != uint32(i) || !bytes.Equal(p.Data, bytes.Repeat([]byte{byte(i + 1)}, n)) {
			t.Fatalf("PDU %d: %v, %d bytes", i, err, len(p.Data))
		}
		p.Release()
	}
}

func TestAReaderTakesMemoryWhenMoreIsThereAndGivesItBack(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	r := NewSmallReader(ours, new(Pool), 1<<20)
	send := func(sizes ...int) {
		var batch bytes.Buffer
		numbered(t, NewWriter(&batch), sizes...)
		sent := make(chan error, 1)
		go func() {
			_, err := theirs.Write(batch.Bytes())
			sent <- err
		}()
		isNumbered(t, r, sizes...)
		must(t, <-sent)
	}
	send(4096)
	if !r.Small() {
		t.Error("one block made it grow")
	}
	send(2000, 3000, 2000, 100000, 1, 4096, 4096)
	if r.Small() {
		t.Error("a batch did not make it grow")
	}
	must(t, ours.SetReadDeadline(time.Unix(1, 0)))
	if err := r.Await(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("await: %v", err)
	}
	r.Shrink()
	must(t, ours.SetReadDeadline(time.Time{}))
	if !r.Small() {
		t.Error("it did not shrink")
	}
	send(300000, 5, 4096, 4096, 4096)
}

// wire notes how often it was written to.
type wire struct {
	bytes.Buffer
	calls int
	fail  error
}

func (v *wire) Write(b []byte) (int, error) {
	v.calls++
	if v.fail != nil {
		return 0, v.fail
	}
	return v.Buffer.Write(b)
}

func TestAWriterSendsWhatFitsAtOnceAndGivesItsMemoryBack(t *testing.T) {
	for _, digests := range []bool{false, true} {
		for _, c := range []struct {
			calls int
			sizes []int
		}{
			{1, []int{0, 5, 4097, 4096}},
			{1, []int{128 << 10, 128 << 10}},
			{1, []int{256 << 10}},
			{3, []int{64<<10 + 3, 200000, 1, 300 << 10, 2}}, // the long one goes out in full by itself
		} {
			var v wire
			w := NewWriter(&v)
			w.SetDigests(digests, digests)
			numbered(t, w, c.sizes...)
			if v.calls != c.calls || w.Buffered() != 0 {
				t.Errorf("%v: written in %d calls, want %d", c.sizes, v.calls, c.calls)
			}
			if w.Shrink(); cap(w.buf) > smallBuffer {
				t.Errorf("%v: %d bytes of buffer are kept", c.sizes, cap(w.buf))
			}
			r := NewReader(&v, nil, 1<<20)
			r.SetDigests(digests, digests)
			isNumbered(t, r, c.sizes...)
		}
	}
}

func TestAWritersErrorIsForGood(t *testing.T) {
	for _, n := range []int{4096, 300 << 10} {
		v := wire{fail: io.ErrClosedPipe}
		w := NewWriter(&v)
		var p PDU
		NopOut{}.Put(&p)
		p.Data = make([]byte, n)
		if err := errors.Join(w.Write(&p), w.Flush()); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%d bytes: %v", n, err)
		}
		v.fail = nil
		if err := w.Write(&p); !errors.Is(err, io.ErrClosedPipe) || v.Len() > 0 {
			t.Errorf("after the error: %v, %d bytes written", err, v.Len())
		}
	}
}
