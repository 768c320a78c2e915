package sitestest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/fleet"
	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// The one group that the sites have, its VM, and its plan.
const (
	Group = "erp"
	VM    = "erp-1"
	Plan  = "main"
)

// patience bounds every wait: machines have other work, and emulated guests are slow.
const patience = 4 * time.Minute

// Options say what the sites are.
type Options struct {
	Product     string // the binary
	Mode        string // from a to b, and back: sync, async, none
	VolumeSize  string // of each of the two, data and log; 1MiB by default
	Checkpoints string // the group's, as YAML on one line
	Timing      string // of the lease: fast by default, or default
	// Driver, where set, runs the group's VM, on one host at each data site.
	Driver string
	// Net is the first three numbers of the sites' addresses, where the caller made them; by default they are drawn from loopback. Sites on
	// other addresses than loopback's prove themselves to one another: their folders are made as their owners would make them.
	Net string
	// Separate, where set, makes the processes: each service of a site, and its host's agent, is one of its own, and is started again when it
	// died.
	Separate fleet.Command
	// Prepare is called before they are started.
	Prepare func(*Sites)
	// Pause is between two looks at a state; 20 ms by default.
	Pause time.Duration
}

// Sites are two data sites, a and b, and a witness, w, each a process of the real binary.
type Sites struct {
	Dir   string       // a folder for each
	Fleet *fleet.Fleet // the processes, with Options.Separate

	t       *testing.T
	o       Options
	net     string
	running map[string]func() // which ends it
}

// Main is a package's TestMain: it builds the binary under test once, into product, and runs the tests. It gives the exit code.
func Main(m *testing.M, product *string) int {
	dir, err := os.MkdirTemp("", "holdfast-sites-")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		*product, err = Build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// Build builds the product into a folder, with more flags of go build, and gives the binary.
func Build(dir string, flags ...string) (string, error) {
	file := filepath.Join(dir, "holdfast")
	build := exec.Command("go", append(append([]string{"build"}, flags...), "-o", file, "github.com/holdfast-dr/holdfast/cmd/holdfast")...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return file, nil
}

// New starts them. They end with the test.
func New(t *testing.T, o Options) *Sites {
	t.Helper()
	s := &Sites{Dir: t.TempDir(), t: t, o: o, net: o.Net, running: map[string]func(){}}
	if o.Separate != nil {
		s.Fleet = fleet.New(s.Dir, o.Separate, t.Logf)
	}
	if s.net != "" {
		s.makeFolders()
	} else {
		s.net = fmt.Sprintf("127.%d.%d", 20+rand.IntN(200), rand.IntN(256)) // of loopback, where no other test has its ports
		for _, id := range ids() {
			if err := os.WriteFile(s.Config(id), []byte(s.text(id)), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() {
		for id := range s.running {
			s.Kill(id)
		}
		if s.Fleet != nil {
			s.Fleet.Close()
		}
	})
	if o.Prepare != nil {
		o.Prepare(s)
	}
	s.Start(ids()...)
	return s
}

func ids() []string { return []string{"a", "b", "w"} }

// Address is a site's.
func (s *Sites) Address(id string) string { return AddressIn(s.net, id) }

// AddressIn is a site's in a network, of which the first three numbers are given.
func AddressIn(net, id string) string {
	return net + map[string]string{"a": ".11", "b": ".12", "w": ".13"}[id]
}

// VMAddress is where the VM's service listens at a site.
func (s *Sites) VMAddress(id string) string { return s.Address(id) + ":8080" }

func (s *Sites) timing() string { return cmp.Or(s.o.Timing, "fast") }

// text is a site's configuration.
func (s *Sites) text(id string) string {
	var b strings.Builder
	say := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	say("site: %s\ndata_dir: ./%s\ntiming: %s\nnats: {listen: '%s:4222'}\nsites:", id, id, s.timing(), s.Address(id))
	for i, other := range ids() {
		role := map[bool]string{true: "witness", false: "data"}[other == "w"]
		say("  - {id: %s, index: %d, role: %s, nats: 'nats://%s:4222'}", other, i+1, role, s.Address(other))
	}
	say("quorum: {model: node_and_share_majority}\njournal: {size: 32MiB}")
	if id != "w" {
		say("iscsi: {listen: '%[1]s:3260'}\nreplication: {listen: '%[1]s:4231'}", s.Address(id))
	}
	if id != "w" && s.o.Driver != "" {
		say("hosts: [{id: %s-h1, driver: %s, probe: '%s:9000'}]", id, s.o.Driver, s.Address(id))
	}
	b.WriteString(s.groups())
	return b.String()
}

// groups are the group and its plan, the same at every site.
func (s *Sites) groups() string {
	var b strings.Builder
	say := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	size := s.o.VolumeSize
	if size == "" {
		size = "1MiB"
	}
	say("groups:\n  - id: %s\n    tier: 1\n    home: a\n    targets: [{site: b, mode: %s}]\n    durability: strict", Group, s.o.Mode)
	say("    on_target_loss: degrade\n    failover: auto\n    hold_down: 100ms\n    volumes: [{id: data, size: %s}, {id: log, size: %s}]", size, size)
	if s.o.Checkpoints != "" {
		say("    checkpoints: %s", s.o.Checkpoints)
	}
	if s.o.Driver != "" {
		say("    vms:\n      - id: %s\n        volumes: [data, log]\n        priority: 1\n        port: 8080\n        sites:", VM)
		for _, at := range []string{"a", "b"} {
			say("          %s: {address: %s, hosts: [%s-h1]}", at, s.Address(at), at)
		}
	}
	say("plans:\n  - id: %s\n    groups: [{group: %s, priority: 1}]", Plan, Group)
	return b.String()
}

// Config is a site's configuration file.
func (s *Sites) Config(site string) string {
	if s.o.Net != "" {
		return filepath.Join(s.Dir, site, "config", "site.yaml")
	}
	return filepath.Join(s.Dir, site+".yaml")
}

// State is a folder of a site's state.
func (s *Sites) State(site string, folder ...string) string {
	dir := filepath.Join(s.Dir, site)
	if s.o.Net != "" {
		dir = filepath.Join(dir, "data")
	}
	return filepath.Join(append([]string{dir}, folder...)...)
}

// Log is what a site's process said.
func (s *Sites) Log(site string) string {
	b, err := os.ReadFile(filepath.Join(s.Dir, site+".log"))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// Start starts sites.
func (s *Sites) Start(ids ...string) {
	s.t.Helper()
	for _, id := range ids {
		if s.Fleet != nil {
			s.startServices(id)
			continue
		}
		log, err := os.OpenFile(filepath.Join(s.Dir, id+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			s.t.Fatal(err)
		}
		cmd := exec.Command(s.o.Product, "site", "--config", s.Config(id))
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			s.t.Fatal(err)
		}
		_ = log.Close()
		s.running[id] = func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
}

// startServices starts a site as the processes of a fleet.
func (s *Sites) startServices(id string) {
	role := domain.SiteData
	if id == "w" {
		role = domain.SiteWitness
	}
	site := domain.SiteID(id)
	for _, name := range fleet.Services(role) {
		if name != api.ServiceDNS || s.o.Net != "" { // the loopback's sites serve no names
			s.Fleet.StartService(site, name, s.Config(id))
		}
	}
	if role == domain.SiteData && s.o.Driver != "" {
		s.Fleet.StartHost(site, domain.HostID(id+"-h1"), s.Config(id))
	}
	s.running[id] = func() { s.Fleet.EndSite(site) }
}

// Runs reports whether a site was started and not killed.
func (s *Sites) Runs(id string) bool { return s.running[id] != nil }

// Kill ends all of a site at once.
func (s *Sites) Kill(id string) {
	end := s.running[id]
	delete(s.running, id)
	if end != nil {
		end()
	}
}

// Run runs a command of the product as an operator of a data site that runs does, and gives what it printed.
func (s *Sites) Run(args ...string) ([]byte, error) {
	asked := "a"
	if s.running[asked] == nil {
		asked = "b"
	}
	out, err := exec.Command(s.o.Product, append(args, "--config", s.Config(asked))...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = fmt.Errorf("holdfast %s: %w: %s", strings.Join(args, " "), err, failed.Stderr)
	}
	return out, err
}

// Must is Run for a command that has to succeed; with into, its output is decoded.
func (s *Sites) Must(into any, args ...string) {
	s.t.Helper()
	if into != nil {
		args = append(args, "--output", "json")
	}
	out, err := s.Run(args...)
	if err == nil && into != nil {
		err = json.Unmarshal(out, into)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Shown is what holdfast group show tells.
type Shown struct {
	Copies map[string]struct {
		Role    string     `json:"role"`
		Serving bool       `json:"serving"`
		Error   string     `json:"error"`
		Disks   []api.Disk `json:"disks"`
		Targets []struct {
			Site   string `json:"site"`
			State  string `json:"state"`
			InSync bool   `json:"in_sync"`
			Lag    int64  `json:"lag_bytes"`
		} `json:"targets"`
	} `json:"copies"`
}

func (s *Sites) show() (Shown, error) {
	out, err := s.Run("group", "show", Group, "--output", "json")
	var failed *exec.ExitError
	if err != nil && (!errors.As(err, &failed) || len(out) == 0) {
		return Shown{}, err
	}
	var got Shown
	return got, json.Unmarshal(out, &got)
}

// Serves waits until a site serves the group, and gives the addresses of its disks.
func (s *Sites) Serves(site string) []string {
	s.t.Helper()
	var urls []string
	s.Until(site+" serves", func(g Shown) bool {
		urls = nil
		for _, d := range g.Copies[site].Disks {
			urls = append(urls, d.URL)
		}
		return g.Copies[site].Serving && len(urls) == 2
	})
	return urls
}

// Follows waits until a site's target has all that it serves, and is in sync where it should.
func (s *Sites) Follows(site string, sync bool) {
	s.t.Helper()
	s.Until("the target of "+site+" follows", func(g Shown) bool {
		for _, t := range g.Copies[site].Targets {
			return t.State == "streaming" && t.Lag == 0 && (t.InSync || !sync)
		}
		return false
	})
}

// Until waits until the group is so.
func (s *Sites) Until(what string, is func(Shown) bool) {
	s.t.Helper()
	end := time.Now().Add(patience)
	for {
		g, err := s.show()
		if err == nil && is(g) {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("never: %s; last: %+v %v", what, g, err)
		}
		time.Sleep(cmp.Or(s.o.Pause, 20*time.Millisecond)) // the command is a process of its own
	}
}

// NATS is the address of a site's server.
func (s *Sites) NATS(id string) string { return "nats://" + s.Address(id) + ":4222" }

// Listed waits until a site's copy has a checkpoint of a kind, and gives the first.
func (s *Sites) Listed(site string, is func(api.Checkpoint) bool) api.Checkpoint {
	s.t.Helper()
	end := time.Now().Add(patience)
	for {
		var list api.CheckpointList
		s.Must(&list, "checkpoint", "list", Group, "--site", site)
		if at := slices.IndexFunc(list.Checkpoints, is); at >= 0 {
			return list.Checkpoints[at]
		}
		if time.Now().After(end) {
			s.t.Fatalf("never there: %+v", list)
		}
		time.Sleep(50 * time.Millisecond) // the command is a process of its own
	}
}

// BackTo moves the group from one site to the other, to a checkpoint of that one's copy.
func (s *Sites) BackTo(from, to string, p api.Checkpoint) {
	s.t.Helper()
	s.back(to, p, "--kind", "switchover", "--from", from)
}

// BackInPlace brings the group back to a checkpoint of the site that serves it.
func (s *Sites) BackInPlace(site string, p api.Checkpoint) {
	s.t.Helper()
	s.back(site, p, "--kind", "start")
}

func (s *Sites) back(site string, p api.Checkpoint, how ...string) {
	s.t.Helper()
	s.Listed(site, func(have api.Checkpoint) bool { return have.LSN == p.LSN && have.Kind == p.Kind })
	s.Must(nil, append([]string{"run", "start", "--plan", Plan, "--to", site, "--checkpoint", fmt.Sprintf("%s=%d", Group, p.LSN),
		"--accept-loss", "--reason", "test", "--timeout", patience.String()}, how...)...)
}
