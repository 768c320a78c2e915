package pool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/replicator/target"
)

const mib = 1 << 20

// fakeFront serves to nobody.
type fakeFront struct {
	units    map[string]target.Unit
	sessions int
}

func (f *fakeFront) Add(name string, u target.Unit) error { f.units[name] = u; return nil }
func (f *fakeFront) Remove(name string) error {
	if f.sessions > 0 {
		return domain.ErrRefused
	}
	delete(f.units, name)
	return nil
}
func (f *fakeFront) Sessions(string) int    { return f.sessions }
func (f *fakeFront) URL(name string) string { return "iscsi://" + name }

// served is a pool with a front.
func served(t *testing.T, dir string, step func(string)) (*Pool, *fakeFront) {
	t.Helper()
	f := &fakeFront{units: map[string]target.Unit{}}
	p, err := Open(dir, Options{Create: true, Front: f, step: step})
	if err != nil {
		t.Fatal(err)
	}
	p.ServeAll()
	return p, f
}

func must(t *testing.T, p *Pool, r Request) {
	t.Helper()
	if _, err := p.Do(t.Context(), r); err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
}

func submit(t *testing.T, u target.Unit, c target.Command) {
	t.Helper()
	done := make(chan error, 1)
	u.Submit(&c, func(err error) { done <- err })
	if err := <-done; err != nil {
		t.Fatalf("%v at %d: %v", c.Op, c.Off, err)
	}
}

func write(t *testing.T, u target.Unit, off int64, data []byte) {
	t.Helper()
	submit(t, u, target.Command{Op: target.OpWrite, Off: off, Len: int64(len(data)), Data: data})
}

func content(t *testing.T, u target.Unit) []byte {
	t.Helper()
	b := make([]byte, u.Info().SizeBytes)
	submit(t, u, target.Command{Op: target.OpRead, Len: int64(len(b)), Data: b})
	return b
}

func TestAVolumeLivesThroughItsCommands(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pool")
	call := func(r Request) (Reply, error) { return Call(t.Context(), dir, r.Verb == VerbCreate, r) }
	for _, c := range []struct {
		r    Request
		want error
		says string
	}{
		{Request{Verb: VerbList}, domain.ErrNotFound, "holdfast volume create"},
		{Request{Verb: VerbCreate, Name: "A", SizeBytes: mib}, domain.ErrInvalid, "a-z"},
		{Request{Verb: VerbCreate, Name: "../a", SizeBytes: mib}, domain.ErrInvalid, "a-z"},
		{Request{Verb: VerbCreate, Name: "a", SizeBytes: 512}, domain.ErrInvalid, "4096"},
		{Request{Verb: VerbCreate, Name: "a", SizeBytes: mib}, nil, ""},
		{Request{Verb: VerbCreate, Name: "a", SizeBytes: mib}, domain.ErrConflict, "taken"},
		{Request{Verb: VerbResize, Name: "b", SizeBytes: mib}, domain.ErrNotFound, "volume list"},
		{Request{Verb: VerbResize, Name: "a", SizeBytes: 2 * mib}, nil, ""},
		{Request{Verb: VerbResize, Name: "a", SizeBytes: mib}, domain.ErrRefused, "--allow-shrink"},
		{Request{Verb: VerbResize, Name: "a", SizeBytes: mib, AllowShrink: true}, nil, ""},
		{Request{Verb: VerbSnapshot, Name: "a", New: "s"}, nil, ""},
		{Request{Verb: VerbSnapshot, Name: "s", New: "s2"}, domain.ErrRefused, "clone"},
		{Request{Verb: VerbResize, Name: "s", SizeBytes: 2 * mib}, domain.ErrRefused, "clone"},
		{Request{Verb: VerbClone, Name: "s", New: "c"}, nil, ""},
		{Request{Verb: VerbDelete, Name: "s", Yes: true}, domain.ErrRefused, "c depend"},
		{Request{Verb: VerbDelete, Name: "a", Yes: true}, domain.ErrRefused, "s depend"},
		{Request{Verb: VerbDelete, Name: "c"}, domain.ErrRefused, "--yes"},
		{Request{Verb: VerbDelete, Name: "c", Yes: true}, nil, ""},
		{Request{Verb: VerbDelete, Name: "s", Yes: true}, nil, ""},
		{Request{Verb: "melt"}, domain.ErrInvalid, "melt"},
	} {
		_, err := call(c.r)
		if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c.r, err)
		}
	}
	reply, err := call(Request{Verb: VerbList})
	if err != nil || len(reply.Volumes) != 1 || reply.Volumes[0].Layers != 1 || reply.Volumes[0].SizeBytes != mib {
		t.Errorf("%+v %v", reply, err)
	}
	if _, err := call(Request{Verb: VerbDelete, Name: "a", Yes: true}); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "layers")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestSnapshotsAndClonesKeepWhatTheyBeganWith(t *testing.T) {
	p, f := served(t, t.TempDir(), nil)
	fill := func(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }
	must(t, p, Request{Verb: VerbCreate, Name: "a", SizeBytes: mib})
	write(t, f.units["a"], 0, fill(1, mib/2))
	must(t, p, Request{Verb: VerbSnapshot, Name: "a", New: "s1"})
	first := content(t, f.units["a"])
	write(t, f.units["a"], 8192+512, fill(2, 1024)) // part of a block
	submit(t, f.units["a"], target.Command{Op: target.OpUnmap, Off: 65536, Len: 65536 + 512})
	must(t, p, Request{Verb: VerbSnapshot, Name: "a", New: "s2"})
	second := content(t, f.units["a"])
	must(t, p, Request{Verb: VerbClone, Name: "s1", New: "c"})
	write(t, f.units["c"], 4096, fill(3, 8192))
	write(t, f.units["a"], mib/2, fill(4, 4096))
	must(t, p, Request{Verb: VerbResize, Name: "a", SizeBytes: 2 * mib})
	third, cloned := content(t, f.units["a"]), content(t, f.units["c"])
	want := slices.Clone(first)
	copy(want[8704:], fill(2, 1024))
	clear(want[65536 : 131072+512])
	if !bytes.Equal(second, want) {
		t.Error("the volume is not what was written")
	}
	copy(want[mib/2:], fill(4, 4096))
	if !bytes.Equal(third[:mib], want) || !bytes.Equal(third[mib:], make([]byte, mib)) {
		t.Error("the grown volume is not what was written")
	}
	check := func(when string, names ...string) {
		t.Helper()
		all := map[string][]byte{"a": third, "s1": first, "s2": second, "c": cloned}
		for _, n := range names {
			if f.units[n] == nil || !bytes.Equal(content(t, f.units[n]), all[n]) {
				t.Errorf("%s: %s differs", when, n)
			}
		}
	}
	check("all there", "a", "s1", "s2", "c")
	must(t, p, Request{Verb: VerbDelete, Name: "s2", Yes: true}) // merged while a is served
	check("s2 deleted", "a", "s1", "c")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p, f = served(t, p.dir, nil)
	check("opened again", "a", "s1", "c")
	must(t, p, Request{Verb: VerbDelete, Name: "c", Yes: true})
	must(t, p, Request{Verb: VerbDelete, Name: "s1", Yes: true})
	check("all deleted", "a")
	if all := p.list(); all[0].Layers != 1 {
		t.Errorf("%d layers are left while the volume is served", all[0].Layers)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p, f = served(t, p.dir, nil)
	defer p.Close()
	check("opened at the end", "a")
	done := make(chan error, 1)
	must(t, p, Request{Verb: VerbSnapshot, Name: "a", New: "s3"})
	f.units["s3"].Submit(&target.Command{Op: target.OpWrite, Len: 512, Data: make([]byte, 512)}, func(err error) { done <- err })
	if err := <-done; !errors.Is(err, target.ErrReadOnly) {
		t.Errorf("a snapshot was written: %v", err)
	}
}

func TestGuardsOfAServedPool(t *testing.T) {
	p, f := served(t, t.TempDir(), nil)
	defer p.Close()
	must(t, p, Request{Verb: VerbCreate, Name: "a", SizeBytes: mib})
	f.sessions = 1
	for _, r := range []Request{{Verb: VerbDelete, Name: "a", Yes: true}, {Verb: VerbResize, Name: "a", SizeBytes: 4096, AllowShrink: true}} {
		if _, err := p.Do(t.Context(), r); !errors.Is(err, domain.ErrRefused) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := Open(p.dir, Options{}); !errors.Is(err, domain.ErrConflict) {
		t.Errorf("opened twice: %v", err)
	}
	for i := range MaxDepth - 1 {
		must(t, p, Request{Verb: VerbSnapshot, Name: "a", New: fmt.Sprint("s", i)})
	}
	if _, err := p.Do(t.Context(), Request{Verb: VerbSnapshot, Name: "a", New: "more"}); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "delete snapshots") {
		t.Errorf("deeper than allowed: %v", err)
	}
}

func TestADamagedRecordHurtsNobodyElse(t *testing.T) {
	dir := t.TempDir()
	p, _ := served(t, dir, nil)
	must(t, p, Request{Verb: VerbCreate, Name: "a", SizeBytes: mib})
	must(t, p, Request{Verb: VerbCreate, Name: "b", SizeBytes: mib})
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "volumes", "a.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := bytes.Clone(raw)
	for _, bad := range [][]byte{bytes.Replace(raw, []byte("cached"), []byte("strict"), 1), raw[:len(raw)/2], bytes.Replace(raw, []byte(`"version": 1`), []byte(`"version": 2`), 1),
		append(bytes.Clone(raw), '{', '}'), bytes.Replace(raw, []byte(`"kind"`), []byte(`"more": 1, "kind"`), 1)} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		p, f := served(t, dir, nil)
		reply, err := p.Do(t.Context(), Request{Verb: VerbList})
		if err != nil || f.units["b"] == nil || f.units["a"] != nil || len(reply.Volumes) != 2 || !strings.Contains(reply.Volumes[1].Error, path) {
			t.Errorf("%s: %+v %v", bad, reply, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	p, f := served(t, dir, nil)
	defer p.Close()
	if f.units["a"] == nil {
		t.Error("the layers were removed while the record was damaged")
	}
}

// TestEveryStepLeavesAWholePool copies the pool's folder after each durable step of every operation, and opens the copy.
func TestEveryStepLeavesAWholePool(t *testing.T) {
	if testing.Short() {
		t.Skip("opens some ninety copies of a pool")
	}
	dir, copies := t.TempDir(), t.TempDir()
	var told []string
	n := 0
	step := func(what string) {
		n++
		to := filepath.Join(copies, fmt.Sprint(n))
		_ = os.RemoveAll(to)
		if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
			t.Error(err)
		}
		told = append(told, what)
	}
	p, f := served(t, dir, step)
	told, n = nil, 0
	want := map[string][]byte{}
	var states []map[string][]byte // what is allowed after each step: the state before the operation or after it
	do := func(r Request, after func()) {
		t.Helper()
		before := copyOf(want)
		from := n
		must(t, p, r)
		after()
		for range n - from {
			states = append(states, before, copyOf(want))
		}
	}
	do(Request{Verb: VerbCreate, Name: "a", SizeBytes: mib}, func() { want["a"] = make([]byte, mib) })
	put := func(name string, off int64, b byte, n int) {
		write(t, f.units[name], off, bytes.Repeat([]byte{b}, n))
		submit(t, f.units[name], target.Command{Op: target.OpFlush})
		want[name] = content(t, f.units[name])
	}
	put("a", 0, 1, 3*65536)
	do(Request{Verb: VerbSnapshot, Name: "a", New: "s1"}, func() { want["s1"] = want["a"] })
	put("a", 4096, 2, 65536)
	do(Request{Verb: VerbSnapshot, Name: "a", New: "s2"}, func() { want["s2"] = want["a"] })
	put("a", 512, 3, 512)
	do(Request{Verb: VerbClone, Name: "a", New: "c"}, func() { want["c"] = want["a"] })
	put("a", 8192, 4, 4096)
	put("c", 8192, 5, 4096)
	do(Request{Verb: VerbResize, Name: "a", SizeBytes: 2 * mib}, func() { want["a"] = append(slices.Clone(want["a"]), make([]byte, mib)...) })
	do(Request{Verb: VerbDelete, Name: "s2", Yes: true}, func() { delete(want, "s2") })
	do(Request{Verb: VerbDelete, Name: "c", Yes: true}, func() { delete(want, "c") })
	do(Request{Verb: VerbDelete, Name: "s1", Yes: true}, func() { delete(want, "s1") })
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		p, f := served(t, filepath.Join(copies, fmt.Sprint(i+1)), nil)
		got := map[string][]byte{}
		for name, u := range f.units {
			got[name] = content(t, u)
		}
		if !alike(got, states[2*i]) && !alike(got, states[2*i+1]) {
			t.Errorf("step %d (%s): the pool is neither as before nor as after: %d volumes", i+1, told[i], len(got))
		}
		if err := p.compact(func() error { return nil }); err != nil {
			t.Errorf("step %d (%s): %v", i+1, told[i], err)
		}
		for name, u := range f.units {
			if !bytes.Equal(content(t, u), got[name]) {
				t.Errorf("step %d (%s): %s changed when its layers were merged", i+1, told[i], name)
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if n < 20 {
		t.Errorf("%d steps only", n)
	}
}

func TestWhatAVolumeKeepsEndsWithIt(t *testing.T) {
	p, _ := served(t, t.TempDir(), nil)
	defer p.Close()
	kept := func() []byte {
		t.Helper()
		v, err := p.find("a")
		if err != nil {
			t.Fatal(err)
		}
		b, err := v.unit.Kept()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for range 2 {
		must(t, p, Request{Verb: VerbCreate, Name: "a", SizeBytes: mib})
		if b := kept(); b != nil {
			t.Errorf("a new volume has %q", b)
		}
		v, err := p.find("a")
		if err != nil {
			t.Fatal(err)
		}
		if err := v.unit.Keep([]byte("reserved")); err != nil {
			t.Fatal(err)
		}
		if b := kept(); string(b) != "reserved" {
			t.Errorf("kept %q", b)
		}
		must(t, p, Request{Verb: VerbDelete, Name: "a", Yes: true})
	}
	if left, err := os.ReadDir(filepath.Join(p.dir, "volumes")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestAKilledServerLosesNoAnsweredWrite copies the pool's files as a killed process leaves them: nothing was flushed.
func TestAKilledServerLosesNoAnsweredWrite(t *testing.T) {
	dir, killed := t.TempDir(), filepath.Join(t.TempDir(), "killed")
	p, f := served(t, dir, nil)
	defer p.Close()
	must(t, p, Request{Verb: VerbCreate, Name: "a", SizeBytes: mib})
	write(t, f.units["a"], 0, bytes.Repeat([]byte{1}, mib))
	must(t, p, Request{Verb: VerbSnapshot, Name: "a", New: "s"})
	write(t, f.units["a"], 4096, bytes.Repeat([]byte{2}, 65536))
	write(t, f.units["a"], 512*1001, bytes.Repeat([]byte{3}, 512))
	submit(t, f.units["a"], target.Command{Op: target.OpUnmap, Off: 128 << 10, Len: 64 << 10})
	want := content(t, f.units["a"])
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	p2, f2 := served(t, killed, nil)
	defer p2.Close()
	if !bytes.Equal(content(t, f2.units["a"]), want) {
		t.Error("an answered write is gone")
	}
}

func copyOf(m map[string][]byte) map[string][]byte {
	out := map[string][]byte{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func alike(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for k := range a {
		if !bytes.Equal(a[k], b[k]) {
			return false
		}
	}
	return true
}

func TestCommandsReachThePoolThatIsServed(t *testing.T) {
	p, f := served(t, t.TempDir(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- p.ServeControl(ctx, func() { close(ready) }) }()
	<-ready
	if info, err := os.Stat(filepath.Join(p.dir, socketName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	reply, err := Call(t.Context(), p.dir, true, Request{Verb: VerbCreate, Name: "a", SizeBytes: mib})
	if err != nil || f.units["a"] == nil || reply.Volumes[0].URL != "iscsi://a" {
		t.Errorf("%+v %v", reply, err)
	}
	if _, err := Call(t.Context(), p.dir, false, Request{Verb: VerbDelete, Name: "a"}); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("the refusal is %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Call(t.Context(), p.dir, false, Request{Verb: VerbDelete, Name: "a", Yes: true}); err != nil {
		t.Errorf("after the server ended: %v", err)
	}
}
