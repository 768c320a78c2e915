package detect_test

import (
	"errors"
	"math/rand/v2"
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
		"window":   func(p *detect.Params) { p.Window = -1 },
		"late":     func(p *detect.Params) { p.Window, p.Late = 1, p.Dead-1 },
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

func adaptive() detect.Params {
	p := params()
	p.Window, p.Late = 256, 12
	return p
}

// lossy beats for so long, each beat lost with a chance that bursts makes depend on the one before.
func lossy(d *detect.Detector, now time.Duration, beats int, loss, again float64, seed uint64) (deaths int, at time.Duration) {
	r := rand.New(rand.NewPCG(seed, 0))
	lost := false
	for range beats {
		now += beat
		chance := loss
		if lost {
			chance = again
		}
		if lost = r.Float64() < chance; !lost {
			d.Good(now)
		}
		if d.Tick(now) && d.State() == api.StateDead {
			deaths++
		}
	}
	return deaths, now
}

func TestACleanLinkIsJudgedAsEver(t *testing.T) {
	for _, script := range []string{"xx.......", "x...xxxx", "x......xxxxxxxx", "x......xx......xxxxxxxx"} {
		want, _ := play(detect.New(params(), 0), 0, script)
		if got, _ := play(detect.New(adaptive(), 0), 0, script); got != want {
			t.Errorf("\nscript %s\ngot    %s\nwant   %s", script, got, want)
		}
	}
	d := detect.New(adaptive(), 0)
	_, now := lossy(d, 0, 1000, 0.01, 0.01, 1)
	if d.Patience() != 6 {
		t.Fatalf("patience %d beats at 1 %% of loss, want 6", d.Patience())
	}
	if d.Good(now); d.Phi(now+3*time.Second) < detect.Threshold {
		t.Fatalf("phi %.2f after 3 s", d.Phi(now+3*time.Second))
	}
}

func TestALossyLinkIsGivenThePatienceItsHistoryAsksFor(t *testing.T) {
	for _, c := range []struct {
		name        string
		loss, again float64
		patience    [2]int
	}{
		{"10 % lost", 0.1, 0.1, [2]int{7, 9}},
		{"20 % lost", 0.2, 0.2, [2]int{9, 12}},
		{"5 % lost, half of them in bursts", 0.05, 0.5, [2]int{11, 12}},
		{"half of it lost", 0.5, 0.5, [2]int{12, 12}},
	} {
		d := detect.New(adaptive(), 0)
		_, now := lossy(d, 0, 2000, c.loss, c.again, 7)
		if p := d.Patience(); p < c.patience[0] || p > c.patience[1] {
			t.Errorf("%s: patience of %d beats, want %v", c.name, p, c.patience)
		}
		_, now = lossy(d, now, 600, 0, 0, 7)
		if p := d.Patience(); p != 6 {
			t.Errorf("%s, then clean for five minutes: patience of %d beats, want 6", c.name, p)
		}
		play(d, now, strings.Repeat(".", 12))
		if d.State() != api.StateDead {
			t.Errorf("%s: not dead after twelve missed", c.name)
		}
	}
}

func TestALossyLinkIsTakenForDeadLessOftenThanByAFixedCount(t *testing.T) {
	const beats = 4 * 3600 * 2
	var fixed, ours int
	for seed := range uint64(10) {
		f, _ := lossy(detect.New(params(), 0), 0, beats, 0.2, 0.2, seed)
		o, _ := lossy(detect.New(adaptive(), 0), 0, beats, 0.2, 0.2, seed)
		fixed, ours = fixed+f, ours+o
	}
	t.Logf("40 h at 20 %% of loss: six beats flat %d times dead, adaptive %d times", fixed, ours)
	if fixed < 5 || ours > fixed/5 {
		t.Fatalf("40 h at 20 %% of loss: six beats flat %d times dead, adaptive %d times", fixed, ours)
	}
}

func TestAnOutageIsNoHistory(t *testing.T) {
	d := detect.New(adaptive(), 0)
	_, now := play(d, 0, strings.Repeat("x", 50))
	for range 20 {
		_, now = play(d, now, strings.Repeat(".", 40)+strings.Repeat("x", 20))
	}
	if p := d.Patience(); p != 6 {
		t.Fatalf("patience of %d beats after twenty outages, want 6", p)
	}
}

func TestTimeTheObserverDidNotRunIsNotSilence(t *testing.T) {
	d := detect.New(adaptive(), 0)
	_, now := play(d, 0, "xxxx..")
	d.Excuse(now, 2*beat)
	if _, now = play(d, now, ".."); d.State() != api.StateAlive {
		t.Fatalf("two missed of four were excused: %s", d.State())
	}
	if play(d, now, "...."); d.State() != api.StateDead {
		t.Fatalf("six missed beside: %s", d.State())
	}
}
