package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/fleet"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// services is a launcher that runs every service of every site as a process of its own.
type services struct {
	*fleet.Fleet
	l    layout
	errs chan error
}

// buildDir is set by TestMain, once.
var buildDir string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "holdfast-fleet-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// buildOnce makes the product once for all tests of this package.
var buildOnce = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "holdfast")
	out, err := exec.Command("go", "build", "-o", path, "../..").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build holdfast: %w\n%s", err, out)
	}
	return path, nil
})

func newServices(t *testing.T, l layout) *services {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	run := func(_ string, args ...string) *exec.Cmd { return exec.Command(path, args...) }
	return &services{Fleet: fleet.New(l.dir, run, t.Logf), l: l, errs: make(chan error)}
}

// names are the services of a site, in the order in which they are started.
func (f *services) names(s domain.SiteID) []string {
	if s == siteW {
		return fleet.Services(domain.SiteWitness)
	}
	return fleet.Services(domain.SiteData)
}

func (f *services) startSite(_ context.Context, s domain.SiteID) error {
	for _, name := range f.names(s) {
		f.StartService(s, name, f.l.configFile(s))
	}
	return nil
}

func (f *services) startHost(_ context.Context, s domain.SiteID, h domain.HostID) error {
	f.StartHost(s, h, f.l.configFile(s))
	return nil
}

func (f *services) killSite(s domain.SiteID) { f.EndSite(s) }

func (f *services) killHost(s domain.SiteID, h domain.HostID) {
	f.End(func(name string) bool { return name == fleet.Part(s, api.HostService(h)) })
}

func (f *services) failed() <-chan error { return f.errs }

func (f *services) close() { f.Close() }
