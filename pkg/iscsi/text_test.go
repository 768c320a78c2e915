package iscsi

import (
	"bytes"
	"strings"
	"testing"
)

func TestPairsRoundTrip(t *testing.T) {
	in := Pairs{{"InitiatorName", "iqn.2026-11.x:y"}, {"SessionType", "Normal"}, {"X-empty", ""}}
	out, err := DecodePairs(append(in.Encode(), 0, 0))
	if err != nil || len(out) != 3 || out[0] != in[0] || out[2] != in[2] {
		t.Fatalf("got %v, %v", out, err)
	}
}

func TestDecodePairsRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"no equals": "abc\x00", "empty key": "=x\x00", "bad key": "a b=x\x00", "twice": "a=1\x00a=2\x00",
		"long key": strings.Repeat("k", 64) + "=1\x00", "long value": "k=" + strings.Repeat("v", maxValueLen+1) + "\x00",
		"too long": strings.Repeat("\x00", MaxTextLen+1),
	} {
		if out, err := DecodePairs([]byte(in)); err == nil {
			t.Errorf("%s: taken as %v", name, out)
		}
	}
}

func TestDecodeBinary(t *testing.T) {
	for in, want := range map[string]string{"0xabcd": "\xab\xcd", "0Xabc": "\x0a\xbc", "0bAQID": "\x01\x02\x03"} {
		if got, err := DecodeBinary(in, 16); err != nil || string(got) != want {
			t.Errorf("%s: %x, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "12", "0xzz", "0b*", "0x" + strings.Repeat("00", 17)} {
		if got, err := DecodeBinary(in, 16); err == nil {
			t.Errorf("%s taken as %x", in, got)
		}
	}
}

func TestCHAPKnowsRightFromWrong(t *testing.T) {
	c := Challenge{ID: 7, Value: []byte("challenge")}
	r := EncodeBinary(c.Response([]byte("secret secret")))
	if r != "0xd04c11871a0d3425c24adf7568a6cef8" {
		t.Errorf("response %s", r)
	}
	if !c.Verify(r, []byte("secret secret")) || c.Verify(r, []byte("other secret!")) || c.Verify("0x", nil) || c.Verify("", nil) {
		t.Error("verification is wrong")
	}
	var text Pairs
	c.Add(&text)
	if got, err := ParseChallenge(text); err != nil || got.ID != 7 || !bytes.Equal(got.Value, c.Value) {
		t.Errorf("challenge came back as %+v, %v", got, err)
	}
	if a, b := NewChallenge(), NewChallenge(); bytes.Equal(a.Value, b.Value) {
		t.Error("two equal challenges")
	}
}

func FuzzDecodePairs(f *testing.F) {
	f.Add([]byte("InitiatorName=iqn.2026-11.x:y\x00SessionType=Discovery\x00"))
	f.Add([]byte("CHAP_I=1\x00CHAP_C=0xff\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := DecodePairs(b)
		if err != nil {
			return
		}
		again, err := DecodePairs(out.Encode())
		if err != nil || len(again) != len(out) {
			t.Fatalf("%v does not survive its own encoding: %v, %v", out, again, err)
		}
		_, _ = ParseChallenge(out)
	})
}

func FuzzReader(f *testing.F) {
	var wire bytes.Buffer
	w := NewWriter(&wire)
	var p PDU
	SCSICommand{Final: true, CDB: Read16CDB(1, 2)}.Put(&p)
	p.Data, p.AHS = []byte("abc"), make([]byte, 8)
	if err := w.Write(&p); err != nil {
		f.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		f.Fatal(err)
	}
	f.Add(wire.Bytes(), false, false)
	f.Add(wire.Bytes()[:50], true, false)
	f.Add([]byte("\x01\x80\x00\x00\xff\xff\xff\xff"+strings.Repeat("\x00", 60)), true, true)
	f.Fuzz(func(t *testing.T, b []byte, hd, dd bool) {
		r := NewReader(bytes.NewReader(b), nil, 4096)
		r.SetDigests(hd, dd)
		var p PDU
		for r.Next(&p) == nil {
			if len(p.Data) > 4096 {
				t.Fatal("limit passed")
			}
			_, _, _ = Range(ParseSCSICommand(&p).CDB)
			_, _ = ResponseSense(p.Data)
			_, _ = ParseSense(p.Data)
			_, _ = DecodeLUN(p.LUN())
			ParseLogin(&p)
			p.Release()
		}
	})
}
