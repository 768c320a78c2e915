package serve

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/replicator/pool"
)

// command carries out a request in a pool as the commands do.
func command(t *testing.T, dir string, r pool.Request) pool.Info {
	t.Helper()
	reply, err := pool.Call(t.Context(), dir, r.Verb == pool.VerbCreate, r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	if len(reply.Volumes) == 0 {
		return pool.Info{}
	}
	return reply.Volumes[0]
}

func dial(t *testing.T, url string) *initiator.Session {
	t.Helper()
	s, err := initiator.Dial(t.Context(), url, initiator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestAServedPoolIsWorkedOnWhileItIsUsed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pool")
	command(t, dir, pool.Request{Verb: pool.VerbCreate, Name: "before", SizeBytes: 1 << 20}) // while nothing serves it
	first, stop := start(t, Options{Pool: dir, Listen: "127.0.0.1:0"})
	if !strings.HasPrefix(first, "iscsi://127.0.0.1:") {
		t.Fatalf("the first line is %q", first)
	}
	before := command(t, dir, pool.Request{Verb: pool.VerbShow, Name: "before"})
	if !strings.Contains(first, before.URL) {
		t.Errorf("%q does not tell %q", first, before.URL)
	}
	db := command(t, dir, pool.Request{Verb: pool.VerbCreate, Name: "db", SizeBytes: 4 << 20})
	disk := dial(t, db.URL)
	ones := bytes.Repeat([]byte{1}, 64<<10)
	if _, err := disk.WriteAt(ones, 4096); err != nil {
		t.Fatal(err)
	}
	snap := command(t, dir, pool.Request{Verb: pool.VerbSnapshot, Name: "db", New: "db-monday"})
	if _, err := disk.WriteAt(make([]byte, 64<<10), 4096); err != nil {
		t.Fatal(err)
	}
	frozen := dial(t, snap.URL)
	got := make([]byte, 64<<10)
	if _, err := frozen.ReadAt(got, 4096); err != nil || !bytes.Equal(got, ones) {
		t.Errorf("the snapshot changed: %v", err)
	}
	if _, err := frozen.WriteAt(ones, 0); err == nil {
		t.Error("the snapshot was written")
	}
	_, err := pool.Call(t.Context(), dir, false, pool.Request{Verb: pool.VerbDelete, Name: "db-monday", Yes: true})
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "logged in") {
		t.Errorf("deleted under a session: %v", err)
	}
	if grown := command(t, dir, pool.Request{Verb: pool.VerbResize, Name: "db", SizeBytes: 8 << 20}); grown.SizeBytes != 8<<20 || grown.Sessions != 1 {
		t.Errorf("%+v", grown)
	}
	if again := dial(t, db.URL); again.Capacity() != 8<<20 || again.Serial() != disk.Serial() || again.Serial() == frozen.Serial() {
		t.Errorf("capacity %d, serial %s", again.Capacity(), again.Serial())
	}
	ten, bw := int64(10), int64(64<<10)
	if set := command(t, dir, pool.Request{Verb: pool.VerbSet, Name: "db", IOPS: &ten, Bandwidth: &bw}); set.IOPS != 10 || set.Bandwidth != bw {
		t.Errorf("%+v", set)
	}
	for range 4 {
		if _, err := disk.WriteAt(ones[:16<<10], 0); err != nil {
			t.Fatal(err)
		}
	}
	reply, err := pool.Call(t.Context(), dir, false, pool.Request{Verb: pool.VerbStats, Name: "db"})
	if w := reply.Stats.Write; err != nil || w.Ops != 6 || w.Bytes != 3*64<<10 || w.MaxUs < 100_000 || w.P50Us > w.MaxUs {
		t.Errorf("%+v %v", reply.Stats, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Call(t.Context(), dir, false, pool.Request{Verb: pool.VerbStats, Name: "db"}); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("statistics while nothing serves: %v", err)
	}
	if err := Run(t.Context(), Options{Pool: dir, File: "x", Listen: "127.0.0.1:0"}, io.Discard, io.Discard); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("a pool and a file: %v", err)
	}
}
