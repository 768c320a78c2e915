//go:build e2e

package initiators

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The credentials of the tests that have any.
const (
	chapUser   = "vm1"
	chapSecret = "a secret of twenty-two"
)

// target is `holdfast volume serve` on one file.
type target struct {
	t       *testing.T
	file    string
	args    []string
	listen  string // after the first start, the address it had
	name    string
	running *process
}

// holdfast is what the tests are about: .bin/holdfast, or $HOLDFAST_BINARY.
func holdfast(t *testing.T) string {
	t.Helper()
	file := os.Getenv("HOLDFAST_BINARY")
	if file == "" {
		file = "../../../../.bin/holdfast"
	}
	file, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("%v: build it with `task build`", err)
	}
	return file
}

// serve makes a volume of a size and serves it on a free port. Further arguments go to the command.
func serve(t *testing.T, size string, args ...string) *target {
	t.Helper()
	s := &target{t: t, file: filepath.Join(t.TempDir(), "volume.img"), args: append([]string{"--size", size, "--verbose"}, args...), listen: "127.0.0.1:0"}
	s.start()
	return s
}

// withCHAP are the arguments that make a target ask for chapUser and chapSecret.
func withCHAP(t *testing.T) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(chapSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--chap", chapUser + ":" + file}
}

// start runs the target, and returns when initiators can log in. After a kill it takes the address it had before.
func (s *target) start() {
	s.t.Helper()
	cmd := exec.Command(holdfast(s.t), append([]string{"volume", "serve", s.file, "--listen", s.listen}, s.args...)...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	url := make(chan string, 1)
	s.running = launch(s.t, cmd)
	go func() {
		lines.Scan()
		url <- lines.Text()
	}()
	part := strings.Split(<-url, "/")
	if len(part) != 5 {
		<-s.running.done
		s.t.Fatalf("the target did not start: %s", s.running.said())
	}
	s.listen, s.name = part[2], part[3]
}

// url is the volume's address for tools of the host.
func (s *target) url() string { return "iscsi://" + s.listen + "/" + s.name + "/0" }

// port is the TCP port alone.
func (s *target) port() string {
	_, port, err := net.SplitHostPort(s.listen)
	if err != nil {
		s.t.Fatal(err)
	}
	return port
}

// stop ends the target as an operator does.
func (s *target) stop() {
	s.t.Helper()
	if err := s.running.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, s.running.done, "the target's end")
	if !s.running.cmd.ProcessState.Success() {
		s.t.Fatalf("the target ended with %s: %s", s.running.cmd.ProcessState, s.running.said())
	}
}

// allocated is how many bytes of the volume's file are on the host's disk.
func (s *target) allocated() int64 {
	s.t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(s.file, &st); err != nil {
		s.t.Fatal(err)
	}
	return st.Blocks * 512
}
