//go:build e2e_compose

package compose

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/demo"
	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/jaegertest"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const (
	ownerID = 65532 // who owns the folders and runs the containers
	upLimit = 6 * time.Minute
)

func image() string {
	if i := os.Getenv("HOLDFAST_IMAGE"); i != "" {
		return i
	}
	return "holdfast/holdfast:0.2"
}

// fleet is the installation while it runs, and who watches it.
type fleet struct {
	t      *testing.T
	in     *installation
	places map[domain.SiteID]*place
	watch  *watcher
	user   *demo.User
	rest   func() // ends the user's appends
	jaeger *jaegertest.Jaeger
}

// raise makes and starts the installation, and waits until site a serves and b protects it. Everything is removed when the
// test ends, however it ends.
func raise(ctx context.Context, t *testing.T) *fleet {
	t.Helper()
	needDocker(t)
	alone(t)
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, places: newPlaces(dir), rest: func() {}}
	f.in = &installation{t: t, places: f.places, dir: dir, uid: fmt.Sprintf("%d:%d", ownerID, ownerID)}
	sweep(t.Context())
	t.Cleanup(func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		f.rest()
		if t.Failed() || os.Getenv("HOLDFAST_E2E_LOGS") != "" {
			f.keepLogs(cctx)
		}
		sweep(cctx)
		if os.Getenv("HOLDFAST_E2E_KEEP") == "" {
			_ = os.RemoveAll(dir)
		}
	})
	if err := f.up(ctx); err != nil {
		t.Fatal(err)
	}
	return f
}

// alone waits until no other run of these tests is under way on this machine: they have the same names and addresses.
func alone(t *testing.T) {
	t.Helper()
	lock, err := os.OpenFile(filepath.Join(os.TempDir(), prefix+"lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
}

// up starts everything.
func (f *fleet) up(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	if err := f.in.make(ctx); err != nil {
		return err
	}
	for i, n := range []string{wanOf("a", "b"), wanOf("a", "w"), wanOf("b", "w"), watchIn} {
		if err := makeNetwork(ctx, n, fmt.Sprintf("10.213.%d.0/24", 10+i)); err != nil {
			return err
		}
	}
	errs := make(chan error, len(f.places))
	for _, p := range f.places {
		go func() { errs <- f.compose(ctx, p, "--profile", "hypervisor", "up", "-d") }()
	}
	for range f.places {
		if err := <-errs; err != nil {
			return err
		}
	}
	if err := f.startJaeger(ctx); err != nil {
		return err
	}
	var err error
	if f.watch, err = startWatcher(f); err != nil {
		return err
	}
	f.user = demo.NewUser(vmName, []string{f.places["a"].authority(), f.places["b"].authority()}, 30*time.Millisecond)
	f.work()
	begun := time.Now()
	if _, err := f.user.Await(ctx, func(a demo.Answer) bool { return a.Site == "a" }); err != nil {
		return err
	}
	f.t.Logf("a user is answered by site a, %.1f s after its containers were up", time.Since(begun).Seconds())
	return f.whole(ctx, "a")
}

// makeNetwork makes a network, or takes the one of that name which docker keeps though no container is in it: it never forgets an
// endpoint that it lost count of (20.10: "has active endpoints").
func makeNetwork(ctx context.Context, name, subnet string) error {
	_, err := docker(ctx, "network", "create", "--internal", "--opt", "com.docker.network.bridge.name="+bridgeOf(name), "--subnet", subnet, name)
	if err == nil {
		return nil
	}
	if in, failed := docker(ctx, "network", "inspect", "--format", "{{len .Containers}}", name); failed != nil || strings.TrimSpace(in) != "0" {
		return err
	}
	return nil
}

// work lets the user append from now on.
func (f *fleet) work() { f.rest = f.user.Start(f.t.Context()) }

// startJaeger runs Jaeger as a part of site b, and lets every site's services reach it as jaeger.
func (f *fleet) startJaeger(ctx context.Context) error {
	b := f.places["b"]
	if err := f.compose(ctx, b, "up", "-d", "jaeger"); err != nil {
		return err
	}
	c, err := f.container(ctx, b, "jaeger")
	if err != nil {
		return err
	}
	i, err := inspect(ctx, c.ID)
	if err != nil {
		return err
	}
	f.jaeger = jaegertest.New("http://" + i.NetworkSettings.Networks[b.siteNetwork()].IPAddress + ":16686")
	for _, id := range []domain.SiteID{"a", "w"} {
		if _, err := docker(ctx, "network", "connect", "--alias", "jaeger", f.places[id].siteNetwork(), c.ID); err != nil {
			return err
		}
	}
	return nil
}

// compose runs docker-compose for a site.
func (f *fleet) compose(ctx context.Context, p *place, args ...string) error {
	cmd := f.composeCmd(ctx, p, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

func (f *fleet) composeCmd(ctx context.Context, p *place, args ...string) *exec.Cmd {
	overlays, err := filepath.Abs("../../../../deploy/compose/e2e")
	if err != nil {
		f.t.Fatal(err)
	}
	all := append(composeCommand()[1:], "--project-name", p.project(), "--project-directory", p.dir,
		"--file", p.files("docker-compose.yml"), "--file", filepath.Join(overlays, "wan.yml"))
	if p.data() {
		all = append(all, "--file", filepath.Join(overlays, "wan-data.yml"))
	}
	cmd := exec.CommandContext(ctx, composeCommand()[0], append(all, args...)...)
	cmd.Dir = p.dir
	cmd.Env = append(os.Environ(), "E2E_PREFIX="+p.subnet(), "E2E_WAN1="+p.wan[0], "E2E_WAN2="+p.wan[1], "E2E_WATCH="+watchIn,
		"HOLDFAST_IMAGE="+image(), "HOLDFAST_SUBNET="+p.subnet()+".0/24", "HOLDFAST_HOST="+string(p.host()), "HOLDFAST_HOST_ADDRESS="+p.at(20),
		"HOLDFAST_BIND="+p.loopback(), "HOLDFAST_UI_BIND="+p.loopback())
	return cmd
}

// container is the one that runs a service of a site.
func (f *fleet) container(ctx context.Context, p *place, service string) (container, error) {
	all, err := containers(ctx, p.project())
	if err != nil {
		return container{}, err
	}
	for _, c := range all {
		if c.Service == service {
			return c, nil
		}
	}
	return container{}, fmt.Errorf("site %s has no container of %s", p.id, service)
}

// own are the containers of a site's own services, without what only watches.
func (f *fleet) own(ctx context.Context, p *place) ([]container, error) {
	all, err := containers(ctx, p.project())
	if err != nil {
		return nil, err
	}
	var out []container
	for _, c := range all {
		if c.Service != "jaeger" && c.Service != "cli" {
			out = append(out, c)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("site %s has no containers", p.id)
	}
	return out, nil
}

// keepLogs writes every container's log beside the test's output, for whoever has to find out why.
func (f *fleet) keepLogs(ctx context.Context) {
	dir := os.Getenv("HOLDFAST_E2E_LOGS")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), prefix+"logs")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return
	}
	for _, p := range f.places {
		all, _ := containers(ctx, p.project())
		for _, c := range all {
			out, _ := exec.CommandContext(ctx, "docker", "logs", "--timestamps", c.ID).CombinedOutput()
			_ = os.WriteFile(filepath.Join(dir, c.Name+".log"), out, 0o644)
		}
	}
	f.t.Logf("the containers' logs are in %s", dir)
}

// sweep removes every container, network and volume of the tests, whoever left them.
func sweep(ctx context.Context) {
	if out, err := docker(ctx, "ps", "--all", "--quiet", "--filter", "name="+prefix); err == nil && out != "" {
		_, _ = docker(ctx, append([]string{"rm", "--force", "--volumes"}, strings.Fields(out)...)...)
	}
	// A container that is removed may be in its networks for a moment longer, which docker refuses to remove then.
	rctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = await(rctx, "the networks' end", 200*time.Millisecond, func() (bool, string) {
		out, err := docker(rctx, "network", "ls", "--quiet", "--filter", "name="+prefix)
		if err != nil || out == "" {
			return err == nil, fmt.Sprint(err)
		}
		_, err = docker(rctx, append([]string{"network", "rm"}, strings.Fields(out)...)...)
		return false, fmt.Sprint(err) // one that stays is taken by whoever makes it next
	})
	if out, err := docker(ctx, "volume", "ls", "--quiet", "--filter", "name="+prefix); err == nil && out != "" {
		_, _ = docker(ctx, append([]string{"volume", "rm"}, strings.Fields(out)...)...)
	}
}
