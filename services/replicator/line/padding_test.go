package line

import (
	"bytes"
	"context"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/services/replicator/journal"
)

// A frame is whole pages; what fills its header's is not sent, and is there all the same where it comes out.
func TestTheHeadersPaddingIsNotSent(t *testing.T) {
	keys := secured(t)
	for name, entries := range map[string]int{"one entry": 1, "a page but one entry": 123, "a whole page": 124, "two pages": 125} {
		t.Run(name, func(t *testing.T) {
			f := journal.Frame{Group: "erp", Epoch: 257, Number: 1, FirstLSN: 1}
			for i := range entries {
				f.Entries = append(f.Entries, journal.Entry{Op: journal.OpWrite, Off: int64(i) * 512, Len: 512, Data: bytes.Repeat([]byte{byte(i + 1)}, 512)})
			}
			raw, err := journal.Encode(&f)
			if err != nil {
				t.Fatal(err)
			}
			if h := headOf(raw); (h.gap == 0) != (entries == 124) || h.gap > journal.PageSize {
				t.Fatalf("%+v of %d bytes", h, len(raw))
			}
			for _, in := range []installation{nil, keys} {
				s, _ := server(t, in.creds(t, site, api.ServiceReplicator))
				got := make(chan []byte, 2)
				take := func(_ context.Context, m []byte) (Ack, error) {
					got <- m
					return Ack{}, nil
				}
				o, closing := s.Open(take)
				defer closing()
				c := dialed(t, o, in.creds(t, other, api.ServiceReplicator), func(Ack) {})
				for _, m := range [][]byte{raw, append(bytes.Clone(raw), raw...)} { // and what follows a frame
					if err := c.Send(m); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(<-got, m) {
						t.Fatal("another message came out")
					}
				}
			}
		})
	}
}
