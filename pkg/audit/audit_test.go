package audit_test

import (
	"encoding/json"
	"log/slog"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/audit"
	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

// TestWhatIsNoEntryKeepsNoActOutOfTheAudit: a record that something else wrote, on the subject of an act to come or as the last of
// the chain, neither passes for the act's entry nor stops those that come after. A run starts when its entry is stored.
func TestWhatIsNoEntryKeepsNoActOutOfTheAudit(t *testing.T) {
	srv, err := natsd.Start(natsd.Config{Site: "a", Listen: "127.0.0.1:0", StoreDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Stop)
	m, err := bus.Dial(bus.Config{Site: "a", Service: "failover", URLs: map[domain.SiteID]string{"a": srv.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	conn, ctx := m.Local(), t.Context()
	if err := conn.EnsureAssets(ctx); err != nil {
		t.Fatal(err)
	}
	for _, junk := range []string{"not JSON", `{"run":"r1","what":"run_started","site":"a","hash":"00"}`, `{}`} {
		if _, err := conn.Append(ctx, "hf.v1.audit.a.run.r1.run_started", []byte(junk), "", nil); err != nil {
			t.Fatal(err)
		}
	}
	e := audit.Entry{Who: "a.operator", What: "run_started", Run: "r1"}
	for range 2 { // a repeat finds it there
		if err := audit.Append(ctx, conn, e); err != nil {
			t.Fatal(err)
		}
	}
	first := last(t, conn)
	if first.seq != 4 || first.Who != "a.operator" || first.Prev == "" {
		t.Fatalf("got %+v", first)
	}
	e.What = "run_ended"
	if err := audit.Append(ctx, conn, e); err != nil {
		t.Fatal(err)
	}
	if next := last(t, conn); next.seq != 5 || next.Prev != first.Hash {
		t.Fatalf("got %+v", next)
	}
}

type numbered struct {
	audit.Entry
	seq uint64
}

func last(t *testing.T, conn *bus.Conn) numbered {
	t.Helper()
	rec, err := conn.Last(t.Context(), api.StreamAudit, audit.Filter("a"))
	if err != nil {
		t.Fatal(err)
	}
	out := numbered{seq: rec.Seq}
	if err := json.Unmarshal(rec.Data, &out.Entry); err != nil {
		t.Fatal(err)
	}
	return out
}
