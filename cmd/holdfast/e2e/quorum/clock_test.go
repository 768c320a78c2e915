//go:build e2e

package quorum

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
)

// stepVariable names the file from which a process takes how far its wall clock is off.
const stepVariable = "HOLDFAST_TEST_WALL_STEP"

// What time.Now begins with, and what it is made to begin with.
const (
	nowText     = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	steppedText = nowText + "\tsec += stepped()\n"
)

// stepSource is added to package time. Only the wall clock of a Time is moved; its monotonic reading, and so timers, stay.
const stepSource = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var step = mapStep()

func stepped() int64 {
	if step == nil {
		return 0
	}
	return atomic.LoadInt64(step)
}

func mapStep() *int64 {
	path, ok := syscall.Getenv("` + stepVariable + `")
	if !ok {
		return nil
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("open " + path + ": " + err.Error())
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map " + path + ": " + err.Error())
	}
	return (*int64)(unsafe.Pointer(&b[0]))
}
`

// buildStepped builds the product with a package time whose wall clock can be stepped from outside: the product's source, and what it is
// made of, is unchanged, and everything in the process sees the step. Without stepVariable it is the product as it is.
func buildStepped(dir string) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find GOROOT: %w", err)
	}
	pkg := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(pkg, "time.go"))
	if err != nil {
		return "", fmt.Errorf("read package time: %w", err)
	}
	if n := strings.Count(string(text), nowText); n != 1 {
		return "", fmt.Errorf("%s: has %q %d times, want 1: this Go is another one than the overlay knows", filepath.Join(pkg, "time.go"), nowText, n)
	}
	replace := map[string]string{}
	for name, content := range map[string]string{"time.go": strings.Replace(string(text), nowText, steppedText, 1), "step_holdfast.go": stepSource} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return "", fmt.Errorf("write overlay: %w", err)
		}
		replace[filepath.Join(pkg, name)] = file
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("write overlay: %w", err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return "", fmt.Errorf("write overlay: %w", err)
	}
	return sitestest.Build(dir, "-trimpath", "-overlay", list)
}

// wallClock is the wall clock of one site's processes.
type wallClock struct {
	file   string
	offset *int64 // seconds, as every process has it mapped
}

func newWallClock(dir, site string) (*wallClock, error) {
	path := filepath.Join(dir, "wall-"+site)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make wall clock: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Truncate(8); err != nil {
		return nil, fmt.Errorf("make wall clock: %w", err)
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, 8, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("make wall clock: %w", err)
	}
	return &wallClock{file: path, offset: (*int64)(unsafe.Pointer(&b[0]))}, nil
}

// set has the clock be off by so much.
func (c *wallClock) set(off time.Duration) { atomic.StoreInt64(c.offset, int64(off/time.Second)) }

// env is what a process of the site needs in its environment.
func (c *wallClock) env() string { return stepVariable + "=" + c.file }
