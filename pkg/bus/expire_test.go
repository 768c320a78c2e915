package bus_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// TestAStreamOfRunsOfBeforeLetsThemExpire: the one of an earlier version is brought up to date with what it holds, and nobody may delete from it
// as before.
func TestAStreamOfRunsOfBeforeLetsThemExpire(t *testing.T) {
	srv := site(t, "a")
	nc, err := nats.Connect(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: api.StreamRuns, Subjects: []string{"hf.v1.run.>"}, DenyDelete: true, DenyPurge: true, Storage: jetstream.FileStorage})
	if err != nil {
		t.Fatal(err)
	}
	c := mesh(t, "a", map[domain.SiteID]string{"a": srv.URL()}).Local()
	gone, stays := api.RunSubject("all", "r1", "run"), api.RunSubject("all", "r2", "run")
	for _, subject := range []string{gone, gone, stays, stays} {
		if _, err := c.Append(t.Context(), subject, []byte(subject), "", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.EnsureAssets(t.Context()); err != nil {
		t.Fatal(err)
	}
	old, err := c.Last(t.Context(), api.StreamRuns, gone)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := c.Append(t.Context(), gone, old.Data, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Expire(t.Context(), old, time.Second); !errors.Is(err, domain.ErrConflict) {
		t.Errorf("what is not the newest: %v", err)
	}
	old.Seq = newer
	if err := c.Expire(t.Context(), old, time.Second); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) { // a poll of a condition
		have, err := c.Subjects(t.Context(), api.StreamRuns, "hf.v1.run.>")
		if err == nil && len(have) == 1 && have[stays] == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the stream has %v, %v", have, err)
		}
	}
	if err := errors.Join(stream.Purge(t.Context()), stream.DeleteMsg(t.Context(), newer)); err == nil {
		t.Error("anybody may delete from it now")
	}
}
