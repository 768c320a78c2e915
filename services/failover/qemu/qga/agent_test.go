package qga

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// guest is the other end of the port, played by a test.
type guest struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// play runs an Agent against a guest that follows the script, and waits for its end.
func play(t *testing.T, script func(g *guest)) *Agent {
	t.Helper()
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		script(&guest{t: t, conn: theirs, in: bufio.NewReader(theirs)})
		_, _ = io.Copy(io.Discard, theirs) // whatever else comes is not answered
	}()
	t.Cleanup(func() {
		_ = ours.Close()
		_ = theirs.Close()
		<-ended
	})
	return New(ours)
}

// hears reads a command, and gives the number of a sync.
func (g *guest) hears(command string) (id int64) {
	line, err := g.in.ReadBytes('\n')
	if err != nil {
		return 0 // the test is over
	}
	var m struct {
		Execute   string `json:"execute"`
		Arguments struct {
			ID int64 `json:"id"`
		} `json:"arguments"`
	}
	text := strings.TrimPrefix(string(line), "\xff")
	if err := json.Unmarshal([]byte(text), &m); err != nil || m.Execute != command {
		g.t.Errorf("the guest hears %q, want %s: %v", line, command, err)
	}
	if sync := command == "guest-sync-delimited"; sync != strings.HasPrefix(string(line), "\xff") {
		g.t.Errorf("%q: only a sync ends what the guest's parser holds", line)
	}
	return m.Arguments.ID
}

func (g *guest) says(format string, args ...any) { fmt.Fprintf(g.conn, format, args...) }

// synced answers a sync.
func (g *guest) synced() { g.says("\xff{\"return\": %d}\n", g.hears("guest-sync-delimited")) }

// does answers a sync and then a command.
func (g *guest) does(command, answer string) {
	g.synced()
	g.hears(command)
	g.says("%s\n", answer)
}

func TestFreezeAndThaw(t *testing.T) {
	a := play(t, func(g *guest) {
		g.does("guest-fsfreeze-freeze", `{"return": 2}`)
		g.does("guest-fsfreeze-thaw", `{"return": 2}`)
	})
	if err := a.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if stayed, err := a.Thaw(t.Context()); err != nil || !stayed {
		t.Fatal(stayed, err)
	}
	if stayed, err := a.Thaw(t.Context()); err != nil || stayed { // asks nothing of the guest
		t.Fatal("a thaw without a freeze:", stayed, err)
	}
}

func TestWhateverComesBeforeTheAnswerToASyncIsThrownAway(t *testing.T) {
	for name, noise := range map[string]string{
		"half an answer":              `{"return": 2}{"ret`,
		"a late answer":               "{\"return\": 9}\n\xff{\"return\": 77}\n",
		"a login prompt":              "Debian GNU/Linux 12 erp hvc0\n\nerp login: ",
		"bytes":                       "\x00\xff\x00\xfe\n\xff\xff\xff\n\r\n",
		"an answer that is no number": "\xff{\"return\": {}}\n\xff{\"return\": \"1\"}\n\xff[]\n\xffnull\n",
		"an error":                    "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Invalid JSON syntax\"}}\n",
		"a line that has no end":      strings.Repeat("x", 3*maxLine),
		"a long line after a sync":    "\xff" + strings.Repeat("y", 3*maxLine) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			a := play(t, func(g *guest) {
				id := g.hears("guest-sync-delimited")
				g.says("%s\xff{\"return\": %d}\n", noise, id)
				g.hears("guest-fsfreeze-freeze")
				g.says("not JSON\n{\"event\": 1}\n{\"return\": 1}\n")
				id = g.hears("guest-sync-delimited")
				g.says("%s\xff{\"return\": %d}\n", noise, id)
				g.hears("guest-fsfreeze-thaw")
				g.says("{\"return\": 1}\n")
			})
			if err := a.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			if stayed, err := a.Thaw(t.Context()); err != nil || !stayed {
				t.Fatal(stayed, err)
			}
		})
	}
}

func TestASilentGuestIsSaidToHaveNoAgentAndIsNotFrozen(t *testing.T) {
	a := play(t, func(*guest) {})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := a.Freeze(ctx)
	if !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), "install qemu-guest-agent") {
		t.Fatal(err)
	}
	if stayed, err := a.Thaw(t.Context()); err != nil || stayed {
		t.Fatal("no freeze was sent, and the thaw asks:", stayed, err)
	}
}

func TestAFreezeThatIsAnsweredTooLateIsThawed(t *testing.T) {
	late := make(chan struct{})
	ctx, tooLong := context.WithCancel(t.Context())
	a := play(t, func(g *guest) {
		g.synced()
		g.hears("guest-fsfreeze-freeze")
		tooLong()
		<-late // the guest writes out gigabytes
		id := g.hears("guest-sync-delimited")
		g.says("{\"return\": 2}\n") // of the freeze, which happened all the same
		g.says("\xff{\"return\": %d}\n", id)
		g.hears("guest-fsfreeze-thaw")
		g.says("{\"return\": 2}\n")
		g.does("guest-fsfreeze-freeze", `{"return": 2}`)
	})
	err := a.Freeze(ctx)
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "took too long") {
		t.Fatal(err)
	}
	close(late)
	if stayed, err := a.Thaw(t.Context()); err != nil || stayed {
		t.Fatal("a freeze that was not answered in time counts as held:", stayed, err)
	}
	if err := a.Freeze(t.Context()); err != nil {
		t.Fatal("the next freeze:", err)
	}
}

func TestAThawIsOwedUntilItIsAnswered(t *testing.T) {
	ctx, tooLong := context.WithCancel(t.Context())
	a := play(t, func(g *guest) {
		g.does("guest-fsfreeze-freeze", `{"return": 1}`)
		g.synced()
		g.hears("guest-fsfreeze-thaw")
		tooLong()  // and nothing is answered
		g.synced() // of a second freeze
		g.does("guest-fsfreeze-thaw", `{"error": {"class": "GenericError", "desc": "busy"}}`)
		g.does("guest-fsfreeze-thaw", `{"return": 1}`)
	})
	if err := a.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Thaw(ctx); err == nil {
		t.Fatal("a thaw that was not answered succeeded")
	}
	if err := a.Freeze(t.Context()); !errors.Is(err, domain.ErrConflict) {
		t.Fatal("frozen again before it is known to go on:", err)
	}
	if _, err := a.Thaw(t.Context()); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "busy") {
		t.Fatal(err)
	}
	if stayed, err := a.Thaw(t.Context()); err != nil || !stayed {
		t.Fatal(stayed, err)
	}
}

func TestFreezesThatAreNoGood(t *testing.T) {
	for name, x := range map[string]struct{ answer, want string }{
		"refused":        {`{"error": {"class": "CommandNotFound", "desc": "the command guest-fsfreeze-freeze has been disabled"}}`, "has been disabled"},
		"nothing there":  {`{"return": 0}`, "no file system that can be frozen"},
		"not a number":   {`{"return": "two"}`, `answers guest-fsfreeze-freeze with "\"two\""`},
		"less than none": {`{"return": -1}`, "no file system"},
	} {
		t.Run(name, func(t *testing.T) {
			a := play(t, func(g *guest) {
				g.does("guest-fsfreeze-freeze", x.answer)
				g.does("guest-fsfreeze-thaw", `{"return": 0}`)
			})
			if err := a.Freeze(t.Context()); !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), x.want) {
				t.Fatal(err)
			}
			if stayed, err := a.Thaw(t.Context()); err != nil || stayed {
				t.Fatal(stayed, err)
			}
		})
	}
}

func TestAGuestThatSomebodyElseThawedWasNotHeld(t *testing.T) {
	for _, thawed := range []int{0, 1} {
		a := play(t, func(g *guest) {
			g.does("guest-fsfreeze-freeze", `{"return": 2}`)
			g.does("guest-fsfreeze-thaw", fmt.Sprintf(`{"return": %d}`, thawed))
		})
		if err := a.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		if stayed, err := a.Thaw(t.Context()); err != nil || stayed {
			t.Fatalf("%d of 2 file systems were still frozen: %v, %v", thawed, stayed, err)
		}
	}
}

func TestAGuestThatIsFoundFrozenIsThawed(t *testing.T) {
	a := play(t, func(g *guest) {
		g.does("guest-fsfreeze-status", `{"return": "thawed"}`)
		g.does("guest-fsfreeze-status", `{"return": "frozen"}`)
		g.does("guest-fsfreeze-thaw", `{"return": 2}`)
		g.does("guest-fsfreeze-freeze", `{"return": 2}`)
	})
	for _, want := range []bool{false, true} {
		if thawed, err := a.Recover(t.Context()); err != nil || thawed != want {
			t.Fatalf("%v, %v; want %v", thawed, err, want)
		}
	}
	if err := a.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if thawed, err := a.Recover(t.Context()); err != nil || thawed { // this freeze has an owner
		t.Fatal(thawed, err)
	}
}

func TestAPortThatIsGone(t *testing.T) {
	ours, theirs := net.Pipe()
	_ = theirs.Close()
	defer func() { _ = ours.Close() }()
	if err := New(ours).Freeze(t.Context()); !errors.Is(err, domain.ErrUnavailable) {
		t.Fatal(err)
	}
}

func FuzzGuestSaysAnything(f *testing.F) {
	f.Add([]byte("\xff{\"return\": 1}\n{\"return\": 2}\n"))
	f.Add([]byte("\xff{\"return\": 1}\n{\"error\": null}\n\xff\xff{\"return\": 2}\n{\"return\": 0}\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		defer func() { _ = ours.Close() }()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		go func() {
			_, _ = theirs.Write(said)
			_ = theirs.Close()
		}()
		a := New(ours)
		if err := a.Freeze(t.Context()); err == nil && a.frozen <= 0 {
			t.Fatal("frozen, and nothing is")
		}
		_, _ = a.Thaw(t.Context())
	})
}
