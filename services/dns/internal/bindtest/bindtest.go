// Package bindtest runs a real BIND 9 for a test: on a free port of loopback, without privileges beyond the test's own,
// with everything it writes in the test's temporary directory.
package bindtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/services/dns/rfc2136"
)

// Zone is the zone the server is primary for. The key may change addresses and epoch records below it, except Fixed.
const Zone = "corp.example."

// Fixed is a name below Zone that the key may not change.
const Fixed = "fixed.corp.example."

// Server is a running named.
type Server struct {
	Addr string      // host:port, UDP and TCP
	Key  rfc2136.Key // may change the zone
	Read rfc2136.Key // known, may change nothing
	cmd  *exec.Cmd
}

const (
	secret     = "bWFueSBoYW5kcyBtYWtlIGxpZ2h0IHdvcmsgaW4gdGg="
	readSecret = "YSByZWFkaW5nIGtleSBjaGFuZ2VzIG5vdGhpbmcgYXQ="
	startWait  = 20 * time.Second
	tries      = 5
)

// Start runs named until the test ends. It skips the test where named is not installed; with CI=true it fails it.
func Start(t *testing.T) *Server {
	t.Helper()
	path, err := exec.LookPath("named")
	if err != nil {
		path = "/usr/sbin/named" // not in every user's PATH
		if _, err := os.Stat(path); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal("named not installed: run deploy/debian/install-test-tools.sh")
			}
			t.Skip("SKIPPED: named not installed (deploy/debian/install-test-tools.sh installs it)")
		}
	}
	for try := 1; ; try++ {
		s := &Server{Addr: freePort(t), Key: rfc2136.Key{Name: "holdfast.", Secret: secret}, Read: rfc2136.Key{Name: "reader.", Secret: readSecret}}
		err := s.start(t, path)
		if err == nil {
			return s
		}
		if try == tries || !strings.Contains(err.Error(), "address in use") {
			t.Fatal(err)
		}
	}
}

// Pause stops named without closing its sockets: as a server that no longer answers. Resume undoes it.
func (s *Server) Pause() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume continues after Pause.
func (s *Server) Resume() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

func (s *Server) start(t *testing.T, path string) error {
	dir := t.TempDir()
	host, port, _ := net.SplitHostPort(s.Addr)
	conf := fmt.Sprintf(`
options { directory %q; listen-on port %s { %s; }; listen-on-v6 { none; }; pid-file none; session-keyfile none; lock-file none;
  recursion no; dnssec-validation no; empty-zones-enable no; notify no; allow-query { any; }; allow-transfer { none; }; minimal-responses yes; };
controls { };
key "holdfast" { algorithm hmac-sha256; secret %q; };
key "reader" { algorithm hmac-sha256; secret %q; };
zone "corp.example" { type primary; file "corp.example.zone"; update-policy { deny holdfast name %s ANY; grant holdfast zonesub A AAAA TXT; }; };
`, dir, port, host, secret, readSecret, Fixed)
	zone := `$TTL 60
@ IN SOA ns.corp.example. hostmaster.corp.example. 1 60 30 600 5
@ IN NS ns.corp.example.
ns IN A 127.0.0.1
erp 5 IN A 10.0.0.1
two 5 IN A 10.0.0.1
two 5 IN A 10.0.0.2
fixed 5 IN A 10.0.0.1
alias 5 IN CNAME erp
_hf-epoch.foreign IN TXT "somebody else's"
`
	confFile := filepath.Join(dir, "named.conf")
	for name, text := range map[string]string{confFile: conf, filepath.Join(dir, "corp.example.zone"): zone} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return err
		}
	}
	s.cmd = exec.Command(path, "-4", "-n", "1", "-g", "-c", confFile)
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	ready, ended := make(chan struct{}), make(chan string, 1)
	go watch(bufio.NewScanner(stderr), ready, ended)
	select {
	case <-ready:
		t.Cleanup(func() {
			_ = s.cmd.Process.Kill()
			<-ended
			_ = s.cmd.Wait()
		})
		return nil
	case <-time.After(startWait):
		_ = s.cmd.Process.Kill()
	case log := <-ended:
		_ = s.cmd.Wait()
		return fmt.Errorf("named ended:\n%s", log)
	}
	log := <-ended
	_ = s.cmd.Wait()
	return fmt.Errorf("named was not running after %s:\n%s", startWait, log)
}

// watch reads named's log: its line "running" says that it answers.
func watch(lines *bufio.Scanner, ready chan<- struct{}, ended chan<- string) {
	var log strings.Builder
	up := false
	for lines.Scan() {
		log.WriteString(lines.Text() + "\n")
		if !up && strings.HasSuffix(lines.Text(), " running") {
			up = true
			close(ready)
		}
	}
	ended <- log.String()
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
