package compose_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/holdfast-dr/holdfast/deploy/compose"
)

// folder is a site's folder as far as compose looks at it.
func folder(t *testing.T, file []byte) string {
	t.Helper()
	dir := t.TempDir()
	env, err := compose.Env(compose.Variable{Name: "HOLDFAST_SITE", Value: "b"}, compose.Variable{Name: "HOLDFAST_UID", Value: "1234"},
		compose.Variable{Name: "HOLDFAST_GID", Value: "1234"}, compose.Variable{Name: "HOLDFAST_HOST", Value: "b-h1"})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"docker-compose.yml": file, ".env": env} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// load reads a site's files as Compose 2 does.
func load(t *testing.T, dir string, more []string, env ...string) *types.Project {
	t.Helper()
	files := append([]string{filepath.Join(dir, "docker-compose.yml")}, more...)
	o, err := cli.NewProjectOptions(files, cli.WithWorkingDirectory(dir), cli.WithName("site-b"), cli.WithEnv(env), cli.WithEnvFiles(), cli.WithDotEnv,
		cli.WithProfiles([]string{"observability", "hypervisor", "cli", "relay"}))
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(t.Context())
	if err != nil {
		t.Fatalf("Compose 2 does not take it: %v", err)
	}
	return p
}

var files = map[string]struct {
	text     []byte
	services []string
	overlays []string
}{
	"data":    {compose.Data(), []string{"cli", "dns", "failover", "grafana", "health", "host", "jaeger", "nats", "prometheus", "quorum", "relay", "replicator"}, []string{"e2e/wan.yml", "e2e/wan-data.yml"}},
	"witness": {compose.Witness(), []string{"cli", "health", "jaeger", "nats", "prometheus", "quorum", "relay"}, []string{"e2e/wan.yml"}},
}

func TestEveryContainerIsConfined(t *testing.T) {
	for name, f := range files {
		p := load(t, folder(t, f.text), nil)
		if got := p.ServiceNames(); !slices.Equal(got, f.services) {
			t.Errorf("%s: services %v, want %v", name, got, f.services)
		}
		for _, s := range p.Services {
			switch {
			case !s.ReadOnly:
				t.Errorf("%s: %s can write to its root", name, s.Name)
			case !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0:
				t.Errorf("%s: %s drops the capabilities %v", name, s.Name, s.CapDrop)
			case !slices.Contains(s.SecurityOpt, "no-new-privileges:true"):
				t.Errorf("%s: %s may get new privileges: %v", name, s.Name, s.SecurityOpt)
			case s.User == "" || strings.HasPrefix(s.User, "0") || strings.HasPrefix(s.User, "root"):
				t.Errorf("%s: %s runs as %q", name, s.Name, s.User)
			case s.MemLimit == 0 || s.CPUS == 0:
				t.Errorf("%s: %s has no limits", name, s.Name)
			case s.Logging == nil || s.Logging.Options["max-size"] == "" || s.Logging.Options["max-file"] == "":
				t.Errorf("%s: %s does not rotate its log", name, s.Name)
			}
			for _, v := range s.Volumes {
				if strings.HasPrefix(v.Target, "/site/") && v.ReadOnly == strings.HasPrefix(v.Target, "/site/data/") {
					t.Errorf("%s: %s has %s, read-only %v", name, s.Name, v.Target, v.ReadOnly)
				}
				if rest, ok := strings.CutPrefix(v.Source, filepath.Join(p.WorkingDir, "secrets")); ok && rest == "" {
					t.Errorf("%s: %s is given every secret of the site", name, s.Name)
				}
			}
		}
	}
}

// TestAServiceSeesItsOwnSecretsOnly: a principal's folder is mounted into the one container that runs it, the CHAP secret into
// the two that log in to one another.
func TestAServiceSeesItsOwnSecretsOnly(t *testing.T) {
	own := map[string][]string{"cli": {"operator"}, "host": {"host-b-h1", "chap"}, "health": {"health", "monitor"}, "replicator": {"replicator", "chap"}}
	p := load(t, folder(t, compose.Data()), nil)
	for _, s := range p.Services {
		want, ok := own[s.Name] // the relay has none
		if !ok {
			want = []string{s.Name}
		}
		for _, v := range s.Volumes {
			dir, base := filepath.Split(v.Source)
			if filepath.Base(dir) == "secrets" && base != "trust" && !slices.Contains(want, base) {
				t.Errorf("%s is given the secrets of %s", s.Name, base)
			}
		}
	}
}

func TestServicesStartInOrder(t *testing.T) {
	p := load(t, folder(t, compose.Data()), nil)
	after := map[string][]string{"quorum": {"nats"}, "health": {"quorum"}, "replicator": {"quorum"}, "dns": {"quorum"}, "host": {"quorum"},
		"failover": {"dns", "health", "quorum", "replicator"}}
	for name, want := range after {
		s, err := p.GetService(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.GetDependencies(); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			t.Errorf("%s starts after %v, want %v", name, got, want)
		}
		if s.HealthCheck == nil || !slices.Contains(s.HealthCheck.Test, "healthcheck") {
			t.Errorf("%s has no health check", name)
		}
	}
}

func TestTheSitesServerHasItsPrivateNameInTheSiteOnly(t *testing.T) {
	for name, f := range files {
		env := []string{"E2E_PREFIX=10.82.0", "E2E_WAN1=x", "E2E_WAN2=y", "E2E_WATCH=z"}
		p := load(t, folder(t, f.text), f.overlays, env...)
		s, err := p.GetService("nats")
		if err != nil {
			t.Fatal(err)
		}
		for network, n := range s.Networks {
			if private := slices.Contains(n.Aliases, "nats-local"); private != (network == "site") {
				t.Errorf("%s: on network %s the server is %v", name, network, n.Aliases)
			}
			if public := slices.Contains(n.Aliases, "nats-b"); public == (network == "site") {
				t.Errorf("%s: on network %s the server is %v", name, network, n.Aliases)
			}
		}
	}
}

// TestTheLineIsReachedAtAPortOfTheSitesOwn: replicators of other sites come in at the replicator, where HOLDFAST_LINE_PORT says.
func TestTheLineIsReachedAtAPortOfTheSitesOwn(t *testing.T) {
	for want, env := range map[string][]string{"4231": nil, "14231": {"HOLDFAST_LINE_PORT=14231"}} {
		s, err := load(t, folder(t, compose.Data()), nil, env...).GetService("replicator")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(s.Ports, func(p types.ServicePortConfig) bool { return p.Target == 4231 && p.Published == want }) {
			t.Errorf("want it at %s, published is %+v", want, s.Ports)
		}
	}
}

// TestCompose1TakesTheFiles runs the docker-compose of this machine, version 1 on Debian 12.
func TestCompose1TakesTheFiles(t *testing.T) {
	if _, err := exec.LookPath("docker-compose"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("docker-compose is not installed")
		}
		t.Skip("SKIPPED: docker-compose is not installed")
	}
	for name, f := range files {
		dir := folder(t, f.text)
		run := func(env []string, args ...string) {
			cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "docker-compose", append(args, "config", "--quiet")...)
			cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", name, err, out)
			}
		}
		run(nil)
		args := []string{"--project-directory", dir, "--file", "docker-compose.yml"}
		for _, o := range f.overlays {
			abs, err := filepath.Abs(o)
			if err != nil {
				t.Fatal(err)
			}
			args = append(args, "--file", abs)
		}
		run([]string{"E2E_PREFIX=10.82.0", "E2E_WAN1=x", "E2E_WAN2=y", "E2E_WATCH=z"}, args...)
	}
}

func TestEnvSetsWhatTheExampleHas(t *testing.T) {
	env, err := compose.Env(compose.Variable{Name: "HOLDFAST_SITE", Value: "b"}, compose.Variable{Name: "HOLDFAST_DNS_PORT", Value: "5300"})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(env), "\n")
	for _, want := range []string{"HOLDFAST_SITE=b", "HOLDFAST_DNS_PORT=5300", "#NATS_IMAGE=nats:2.15.2"} {
		if !slices.Contains(lines, want) {
			t.Errorf(".env has no line %s:\n%s", want, env)
		}
	}
	if _, err := compose.Env(compose.Variable{Name: "HOLDFAST_STIE", Value: "b"}); err == nil || !strings.Contains(err.Error(), "HOLDFAST_STIE") {
		t.Errorf("an unknown variable: %v", err)
	}
	if _, err := compose.Env(compose.Variable{Name: "HOLDFAST_SITE", Value: "b\nX=1"}); err == nil {
		t.Error("a value of two lines is taken")
	}
}

// TestTheExampleHasEveryVariable: what the files can be told is in .env.example, with the same default in a data site's.
func TestTheExampleHasEveryVariable(t *testing.T) {
	example := string(compose.Example())
	for name, f := range files {
		for part := range strings.SplitSeq(string(f.text), "${") {
			v, rest, ok := strings.Cut(part, ":")
			if !ok || !strings.HasPrefix(v, "HOLDFAST_") && !strings.HasSuffix(v, "_IMAGE") {
				continue
			}
			if !strings.Contains(example, v+"=") {
				t.Errorf("%s: %s is not in .env.example", name, v)
			}
			if value, hasDefault := strings.CutPrefix(rest, "-"); hasDefault && name == "data" {
				value, _, _ = strings.Cut(value, "}")
				if !strings.Contains(example, "#"+v+"="+value+"\n") {
					t.Errorf("%s: .env.example does not say that %s is %s", name, v, value)
				}
			}
		}
	}
}
