package detect_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/health/detect"
)

const beat = 500 * time.Millisecond

func params() detect.Params {
	return detect.Params{Interval: beat, Suspect: 3, Dead: 6, Recover: 8, Grace: 10 * beat, FlapWindow: 10 * time.Minute}
}

// play runs a script, one rune a beat: 'x' an answer, '.' none, 'F' blind until now. The transcript has the state after each
// beat: u, a, s, d.
func play(d *detect.Detector, now time.Duration, script string) (string, time.Duration) {
	var out strings.Builder
	for _, r := range script {
		now += beat
		switch r {
		case 'x':
			d.Good(now)
		case 'F':
			d.Forgive(now)
		}
		d.Tick(now)
		out.WriteByte(d.State()[0])
	}
	return out.String(), now
}

func TestTranscripts(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"one or two missed are nothing", "xx..xx.x", "aaaaaaaa"},
		{"three are suspect, six are dead", "xx.......", "aaaasssdd"},
		{"suspicion ends after four good ones in a row", "x...xxxx", "aaassssa"},
		{"a miss begins the row anew", "x...xxx.xxxx", "aaassssssssa"},
		{"death ends after eight in a row, and the first makes it suspect", "x......xxxxxxxx", "aaasssdsssssssa"},
		{"dead again while it recovers", "x......xx......xxxxxxxx", "aaasssdsssssssdsssssssa"},
		{"blindness of the observer proves nothing", "xx..F..F..x", "aaaaaaaaaaa"},
		{"blindness does not heal", "x......F.....x", "aaasssddddddds"},
		{"never heard of within the grace", "..........xx", "uuuuuuuuuuaa"},
		{"never heard of, dead after grace and six beats", "................", "uuuuuuuuuuuuuuud"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, _ := play(detect.New(params(), 0), 0, c.script)
			if got != c.want {
				t.Fatalf("\nscript %s\ngot    %s\nwant   %s", c.script, got, c.want)
			}
		})
	}
}

func TestFlappingIsDamped(t *testing.T) {
	d := detect.New(params(), 0)
	_, now := play(d, 0, "x")
	for round, want := range []int{4, 8, 16, 32, 32} {
		_, now = play(d, now, "...")
		if d.State() != api.StateSuspect {
			t.Fatalf("round %d: %s", round, d.State())
		}
		got := 0
		for d.State() != api.StateAlive {
			_, now = play(d, now, "x")
			got++
		}
		if got != want {
			t.Fatalf("fall %d: alive after %d good ones, want %d", round+1, got, want)
		}
	}
	_, _ = play(d, now+11*time.Minute, "xF...xxxx") // a quiet while later the first fall is forgotten
	if d.State() == api.StateAlive {
		return
	}
	t.Fatalf("after a quiet time the damping goes on: %s", d.State())
}

func TestFirstMissedIsWhenTheBeatWasDueAndStaysUntilAlive(t *testing.T) {
	d := detect.New(params(), 0)
	_, now := play(d, 0, "xx")
	want := now + beat
	for _, script := range []string{"...", "...", "x", "......"} {
		_, now = play(d, now, script)
		if got, ok := d.FirstMissed(); !ok || got != want {
			t.Fatalf("after %q: first missed %v, %v, want %v", script, got, ok, want)
		}
	}
	play(d, now, "xxxxxxxx")
	if _, ok := d.FirstMissed(); ok {
		t.Fatal("alive, and still a first missed beat")
	}
}

func TestManyNodesDoNotShortenTheRow(t *testing.T) {
	d := detect.New(params(), 0)
	_, now := play(d, 0, "x......")
	for i := range 3 { // three beats of time, ten answers in each
		for range 10 {
			now += beat / 10
			d.Good(now)
		}
		if d.State() != api.StateSuspect {
			t.Fatalf("beat %d: %s", i, d.State())
		}
	}
}

func TestParamsAreRefused(t *testing.T) {
	for field, change := range map[string]func(*detect.Params){
		"interval": func(p *detect.Params) { p.Interval = 0 },
		"suspect":  func(p *detect.Params) { p.Suspect = 0 },
		"dead":     func(p *detect.Params) { p.Dead = p.Suspect },
		"recover":  func(p *detect.Params) { p.Recover = p.Dead },
		"grace":    func(p *detect.Params) { p.Grace = -1 },
	} {
		p := params()
		change(&p)
		if err := p.Validate(); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if err := params().Validate(); err != nil {
		t.Fatal(err)
	}
}
