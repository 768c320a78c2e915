package demo

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// palette colours text where the output is a terminal and NO_COLOR is not set.
type palette struct{ on bool }

func newPalette(w io.Writer) palette {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return palette{}
	}
	st, err := f.Stat()
	return palette{on: err == nil && st.Mode()&os.ModeCharDevice != 0}
}

func (p palette) paint(code, s string) string {
	if !p.on {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}
func (p palette) bold(s string) string  { return p.paint("1", s) }
func (p palette) dim(s string) string   { return p.paint("2", s) }
func (p palette) red(s string) string   { return p.paint("31", s) }
func (p palette) green(s string) string { return p.paint("32", s) }
func (p palette) amber(s string) string { return p.paint("33", s) }

// teller prints what happens as it happens, one line each, with the time since the demo began.
type teller struct {
	mu    sync.Mutex
	w     io.Writer // nil: silent
	p     palette
	begin time.Time
}

func (t *teller) say(mark, format string, args ...any) {
	if t.w == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	_, _ = fmt.Fprintf(t.w, "%s %s %s\n", t.p.dim(fmt.Sprintf("%7.2fs", time.Since(t.begin).Seconds())), mark, fmt.Sprintf(format, args...))
}

func (t *teller) good(format string, args ...any) { t.say(t.p.green("●"), format, args...) }
func (t *teller) bad(format string, args ...any)  { t.say(t.p.red("✗"), format, args...) }
func (t *teller) note(format string, args ...any) { t.say(t.p.amber("▸"), format, args...) }
