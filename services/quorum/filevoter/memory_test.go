package filevoter_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/filevoter"
)

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// start is what the service does with the voter's folder before it opens it.
func (m *machine) start(t *testing.T) {
	t.Helper()
	if _, err := filevoter.ForgetOtherBoots(m.dir, m.mirror, m.boot, nil); err != nil {
		t.Fatal(err)
	}
}

// TestAnOldCopyThatIsPutBackIsNoticedAndUndone puts an older file, or none, in the place of a voter's record.
func TestAnOldCopyThatIsPutBackIsNoticedAndUndone(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *machine, []byte){
		"an old copy": func(t *testing.T, m *machine, old []byte) { write(t, m.file(), old) },
		"no file": func(t *testing.T, m *machine, _ []byte) {
			if err := os.Remove(m.file()); err != nil {
				t.Fatal(err)
			}
		},
		"an old copy of the whole folder, of another boot": func(t *testing.T, m *machine, old []byte) {
			write(t, m.file(), old)
			write(t, m.dir+"/boot-id", []byte("zero\n"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.start(t)
			v := m.open(t)
			ask(t, v, request(core.Prepare, "a", 1, 0))
			ask(t, v, request(core.Accept, "a", 1, 1))
			old := read(t, m.file())
			m.now = m.now.Add(2 * g)
			ask(t, v, request(core.Prepare, "b", 2, 0))
			ask(t, v, request(core.Accept, "b", 2, 1))
			newest, err := v.Record("test", "erp")
			if err != nil {
				t.Fatal(err)
			}
			spoil(t, m, old)
			m.start(t)
			again := m.open(t)
			if got, err := again.Record("test", "erp"); err != nil || got.OlderThan(newest) || newest.OlderThan(got) || got.VHolder != "b" || !got.Reg.Holds("b") {
				t.Fatalf("the voter has %+v, want %+v: %v", got, newest, err)
			}
			if got := ask(t, again, request(core.Prepare, "a", 2, 0)); got.Verdict != core.Rejected {
				t.Errorf("what it promised is forgotten: %+v", got)
			}
			m.now = m.now.Add(time.Second)
			if got := ask(t, again, request(core.Prepare, "a", 3, 0)); got.Verdict != core.Busy {
				t.Errorf("what it granted is forgotten: %+v", got)
			}
			if !strings.Contains(m.log.String(), "older than the voter's last") {
				t.Errorf("nobody is told:\n%s", m.log.String())
			}
			if !strings.Contains(string(read(t, m.file())), `"v_holder":"b"`) {
				t.Errorf("the file is not written anew: %s", read(t, m.file()))
			}
		})
	}
}

// TestARecordThatIsAheadOfTheMemoryIsBelieved is a voter that was killed between the two, or whose folder was at another machine.
func TestARecordThatIsAheadOfTheMemoryIsBelieved(t *testing.T) {
	m := newMachine(t)
	v := m.open(t)
	ask(t, v, request(core.Prepare, "a", 1, 0))
	memory := read(t, m.mirror+"/test.erp.record")
	ask(t, v, request(core.Accept, "a", 1, 1))
	write(t, m.mirror+"/test.erp.record", memory)
	if got, err := m.open(t).Record("test", "erp"); err != nil || got.VHolder != "a" || m.log.Len() > 0 {
		t.Errorf("%+v, %v, log %q", got, err, m.log.String())
	}
}

func TestARecordOfAnotherHistoryIsNeverVotedOn(t *testing.T) {
	m, elsewhere := newMachine(t), newMachine(t)
	v := m.open(t)
	ask(t, v, request(core.Prepare, "a", 1, 0))
	ask(t, v, request(core.Accept, "a", 1, 1)) // voted for
	o := elsewhere.open(t)
	ask(t, o, request(core.Prepare, "b", 5, 0)) // promised more
	write(t, m.file(), read(t, elsewhere.file()))
	again := m.open(t)
	if _, err := again.Handle("test", "erp", request(core.Prepare, "b", 9, 0)); !errors.Is(err, domain.ErrRefused) {
		t.Errorf("%v, want refused", err)
	}
}
