package objectvoter_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/objectvoter"
)

// versity starts versitygw, an S3 gateway, over a folder, and gives its address and an access key.
func versity(t *testing.T) objectvoter.Config {
	t.Helper()
	binary := os.Getenv("HOLDFAST_VERSITYGW")
	if binary == "" {
		t.Skip("SKIPPED: needs a real S3 server; task test:s3 builds one and runs this")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "votes"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--access", "someone", "--secret", "something", "--port", addr, "posix", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it does not answer: %v", err)
		}
		time.Sleep(20 * time.Millisecond) // its port is all that tells
	}
	return objectvoter.Config{Endpoint: "http://" + addr, Bucket: "votes", Prefix: "holdfast", Credentials: keyFile(t, "someone", "something")}
}

// The gateway checks signatures as S3 does.
func TestARealServerRefusesAWrongKey(t *testing.T) {
	cfg := versity(t)
	cfg.Credentials = keyFile(t, "someone", "something else")
	if err := bucketOf(t, cfg, time.Minute).Conform(); !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("with a wrong key: %v", err)
	}
}

func TestARealServerIsAPassiveVoter(t *testing.T) {
	cfg := versity(t)
	for range 5 {
		if err := bucketOf(t, cfg, time.Minute).Conform(); err != nil {
			t.Fatal(err)
		}
	}
	suite(t, cfg)
}
