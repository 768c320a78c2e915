package filevoter_test

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/filevoter"
)

const g = 6 * time.Second

// machine is where a voter runs: directories, a boot and a clock.
type machine struct {
	dir, mirror, boot string
	now               core.Instant
	faults            func(domain.GroupID, filevoter.Point) error
	log               strings.Builder
}

func newMachine(t *testing.T) *machine {
	return &machine{dir: t.TempDir(), mirror: t.TempDir(), boot: "one", now: core.Instant(time.Minute)}
}

func (m *machine) open(t *testing.T) *filevoter.Voter {
	t.Helper()
	v, err := filevoter.Open(filevoter.Config{ID: "v", Dir: m.dir, Mirror: m.mirror, BootID: m.boot, Faults: m.faults,
		Now: func() core.Instant { return m.now }, Logger: slog.New(slog.NewTextHandler(&m.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (m *machine) file() string { return filepath.Join(m.dir, "test", "erp.vote") }

func request(verb core.Verb, from domain.SiteID, counter int, seq uint64) core.Request {
	e := domain.NewEpoch(0, counter, int(from[0]-'a')+1)
	return core.Request{Verb: verb, From: from, Epoch: e, Seq: seq, G: g,
		Reg: &core.Register{WE: e, Seq: seq, InSync: []domain.SiteID{from}, Config: core.Config{Version: 1, Weights: core.Weights{"v": 1}}}}
}

func ask(t *testing.T, v *filevoter.Voter, req core.Request) core.Response {
	t.Helper()
	resp, err := v.Handle("test", "erp", req)
	if err != nil {
		t.Fatalf("%s: %v", req.Verb, err)
	}
	return resp
}

func TestTheRecordOutlivesTheProcess(t *testing.T) {
	m := newMachine(t)
	v := m.open(t)
	ask(t, v, request(core.Prepare, "a", 1, 0))
	ask(t, v, request(core.Accept, "a", 1, 1))
	m.now = m.now.Add(time.Second)
	ask(t, v, request(core.Renew, "a", 1, 2))
	again := m.open(t)
	if got := ask(t, again, request(core.Probe, "b", 0, 0)); got.Verdict != core.Busy || got.Remaining != g || got.VHolder != "a" {
		t.Errorf("after a restart: %+v, want busy for all of G", got)
	}
	if got := ask(t, again, request(core.Prepare, "a", 1, 0)); got.Verdict != core.Rejected {
		t.Errorf("the promise is forgotten: %+v", got)
	}
	if groups := again.Groups("test"); len(groups) != 1 || groups[0] != "erp" {
		t.Errorf("groups %v", groups)
	}
}

func TestNothingIsWrittenAfterTheVoterIsClosed(t *testing.T) {
	m := newMachine(t)
	writes, goOn := make(chan struct{}), make(chan struct{})
	m.faults = func(_ domain.GroupID, p filevoter.Point) error {
		if p == filevoter.TempSynced {
			close(writes)
			<-goOn
		}
		return nil
	}
	v := m.open(t)
	answered, closed := make(chan error, 1), make(chan struct{})
	go func() {
		_, err := v.Handle("test", "erp", request(core.Prepare, "a", 1, 0))
		answered <- err
	}()
	<-writes
	go func() {
		v.Close()
		close(closed)
	}()
	for { // until Close has begun
		if _, err := v.Handle("test", "other", request(core.Probe, "a", 1, 0)); errors.Is(err, domain.ErrUnavailable) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-closed:
		t.Error("Close did not wait for the vote that is being written")
	default:
	}
	close(goOn)
	if err := <-answered; err != nil {
		t.Errorf("the vote under way: %v", err)
	}
	<-closed
	if _, err := v.Handle("test", "erp", request(core.Prepare, "a", 2, 0)); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("a vote after the end: %v", err)
	}
	if rec, err := m.open(t).Record("test", "erp"); err != nil || rec.Promised != domain.NewEpoch(0, 1, 1) {
		t.Errorf("the record of the next voter: %+v, %v", rec, err)
	}
}

func TestAfterARebootOrWithoutItsMirrorTheVoteIsBusyForG(t *testing.T) {
	for name, spoil := range map[string]func(*testing.T, *machine){
		"reboot": func(_ *testing.T, m *machine) { m.boot, m.now = "two", core.Instant(time.Second) },
		"mirror lost": func(t *testing.T, m *machine) {
			if err := os.RemoveAll(m.mirror); err != nil {
				t.Fatal(err)
			}
		},
		"mirror torn": func(t *testing.T, m *machine) {
			if err := os.WriteFile(filepath.Join(m.mirror, "test.erp"), []byte("holdfast"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			ask(t, m.open(t), request(core.Accept, "a", 1, 1))
			spoil(t, m)
			v := m.open(t)
			if got := ask(t, v, request(core.Probe, "b", 0, 0)); got.Verdict != core.Busy {
				t.Errorf("%+v, want busy", got)
			}
			m.now = m.now.Add(g)
			if got := ask(t, v, request(core.Probe, "b", 0, 0)); got.Verdict != core.OK {
				t.Errorf("%+v G later, want free", got)
			}
		})
	}
}

var errKilled = errors.New("killed")

// TestKilledAnywhereInAWriteTheVoterKeepsWhatItAnswered stops the voter at each point of each write of a sequence, starts
// it anew from the files, and holds it to every answer it gave.
func TestKilledAnywhereInAWriteTheVoterKeepsWhatItAnswered(t *testing.T) {
	steps := []core.Request{request(core.Prepare, "a", 1, 0), request(core.Accept, "a", 1, 1), request(core.Update, "a", 1, 2),
		request(core.Renew, "a", 1, 3), request(core.Release, "a", 1, 4), request(core.Prepare, "b", 2, 0), request(core.Accept, "b", 2, 1)}
	points := []filevoter.Point{filevoter.TempWritten, filevoter.TempSynced, filevoter.Renamed, filevoter.DirSynced, filevoter.Mirrored}
	for _, point := range points {
		for kill := range steps {
			m := newMachine(t)
			v := m.open(t)
			var answered core.Record
			for i, req := range steps {
				m.now = m.now.Add(g) // so that no step is busy
				if i == kill {
					m.faults = func(_ domain.GroupID, p filevoter.Point) error {
						if p == point {
							return errKilled
						}
						return nil
					}
					v = m.open(t)
				}
				_, err := v.Handle("test", "erp", req)
				if i == kill && err != nil {
					break
				}
				if err != nil {
					t.Fatalf("%s before the kill: %v", req.Verb, err)
				}
				rec, _ := v.Record("test", "erp")
				answered = rec
				if i == kill {
					break // this step writes nothing at that point
				}
			}
			m.faults = nil
			again := m.open(t)
			rec, err := again.Record("test", "erp")
			if err != nil {
				t.Fatalf("%s at %q: %v", steps[kill].Verb, point, err)
			}
			if rec.Promised < answered.Promised || rec.VEpoch < answered.VEpoch || answered.Reg.NewerThan(rec.Reg) {
				t.Errorf("%s at %q: holds %+v, had answered %+v", steps[kill].Verb, point, rec, answered)
			}
		}
	}
}

func TestAFailedWriteGivesNoAnswerAndHoldsOff(t *testing.T) {
	m := newMachine(t)
	broken := false
	m.faults = func(_ domain.GroupID, p filevoter.Point) error {
		if broken && p == filevoter.Mirrored {
			return errKilled
		}
		return nil
	}
	v := m.open(t)
	ask(t, v, request(core.Accept, "a", 1, 1))
	broken = true
	if _, err := v.Handle("test", "erp", request(core.Renew, "a", 1, 2)); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("renewal that was not stored: %v", err)
	}
	broken = false
	m.now = m.now.Add(g - time.Second)
	if got := ask(t, v, request(core.Probe, "b", 0, 0)); got.Verdict != core.Busy {
		t.Errorf("%+v, want busy for G from the moment it was read again", got)
	}
}

func TestACorruptRecordIsNeverVotedOn(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"torn":      func(b []byte) []byte { return b[:len(b)-3] },
		"bit flip":  func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"zeroed":    func(b []byte) []byte { return make([]byte, len(b)) },
		"lengthier": func(b []byte) []byte { return append(b, "{}\n"...) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			ask(t, m.open(t), request(core.Accept, "a", 1, 1))
			data, err := os.ReadFile(m.file())
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(m.file(), spoil(data), 0o600); err != nil {
				t.Fatal(err)
			}
			v := m.open(t)
			if !strings.Contains(m.log.String(), "refuses to vote") {
				t.Error("the log does not say so")
			}
			for _, verb := range core.Verbs() {
				if _, err := v.Handle("test", "erp", request(verb, "b", 9, 1)); !errors.Is(err, domain.ErrRefused) || !errors.Is(err, filevoter.ErrCorrupt) {
					t.Errorf("%s: %v, want refused", verb, err)
				}
			}
			if _, err := v.Handle("test", "crm", request(core.Accept, "b", 1, 1)); err != nil {
				t.Errorf("another group: %v", err)
			}
		})
	}
}

func TestOneWitnessServesManyClusters(t *testing.T) {
	m := newMachine(t)
	v := m.open(t)
	for _, cluster := range []string{"north", "south"} {
		if resp, err := v.Handle(cluster, "erp", request(core.Accept, domain.SiteID(cluster[:1]), 1, 1)); err != nil || resp.Verdict != core.OK {
			t.Errorf("cluster %s: %+v, %v", cluster, resp, err)
		}
	}
	if _, err := v.Handle("../north", "erp", request(core.Probe, "a", 0, 0)); !errors.Is(err, domain.ErrInvalid) {
		t.Errorf("a path for a name: %v", err)
	}
}
