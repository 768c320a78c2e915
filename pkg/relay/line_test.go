package relay

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestALineMayComeInPieces(t *testing.T) {
	if got, err := readRequest(iotest.OneByteReader(bytes.NewReader(request("site-c")))); err != nil || got != "site-c" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestAnAnswerIsReadBackAsItWasMeant(t *testing.T) {
	for _, err := range []error{nil, fmt.Errorf("%w: no\nway", domain.ErrRefused), fmt.Errorf("%w: gone", domain.ErrUnavailable), fmt.Errorf("%w: %s", domain.ErrInvalid, strings.Repeat("long ", 300))} {
		r := bytes.NewReader(append(answer(err), "INFO"...))
		got := readAnswer(r)
		if (got == nil) != (err == nil) || err != nil && !errors.Is(got, errors.Unwrap(err)) {
			t.Errorf("%v came back as %v", err, got)
		}
		if r.Len() != len("INFO") {
			t.Errorf("%v: %d bytes are left of what follows", err, r.Len())
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("holdfast-relay/1 c\n"))
	f.Add([]byte("holdfast-relay/1 c\nmore"))
	f.Add([]byte{0x16, 3, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		to, err := readRequest(bytes.NewReader(data))
		if err == nil && !bytes.Equal(request(to), data) {
			t.Fatalf("%q was taken for a request for %q", data, to)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("ok\n"))
	f.Add([]byte("no refused why\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if readAnswer(bytes.NewReader(data)) == nil && !bytes.HasPrefix(data, []byte("ok\n")) {
			t.Fatalf("%q was taken for a yes", data)
		}
	})
}
