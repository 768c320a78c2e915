package sealed

import (
	"bytes"
	"testing"
)

func TestOnlyWhatWasSealedOpens(t *testing.T) {
	for _, body := range [][]byte{nil, []byte("{}"), []byte("one\ntwo\n")} {
		whole := Seal("a-word-1", body)
		if got, ok := Open("a-word-1", whole); !ok || !bytes.Equal(got, body) {
			t.Errorf("%q opens as %q, %v", whole, got, ok)
		}
		if _, ok := Open("a-word-2", whole); ok {
			t.Errorf("%q opens under another word", whole)
		}
		for i := range whole {
			if _, ok := Open("a-word-1", whole[:i]); ok && len(body) > 0 {
				t.Errorf("%q opens, cut to %d bytes", whole, i)
			}
			changed := bytes.Clone(whole)
			changed[i] ^= 1
			if _, ok := Open("a-word-1", changed); ok {
				t.Errorf("%q opens", changed)
			}
		}
	}
	if got := string(Seal("holdfast-share-1", []byte("123456789"))); got != "holdfast-share-1 e3069283\n123456789" {
		t.Errorf("the format of records that are kept changed: %q", got)
	}
}
