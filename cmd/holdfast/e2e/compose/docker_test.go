//go:build e2e_compose

package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// docker runs one docker command and returns what it printed.
func docker(ctx context.Context, args ...string) (string, error) {
	return command(ctx, "docker", args...)
}

func command(ctx context.Context, name string, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return strings.TrimSpace(out.String()), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(out.String()), nil
}

// composeCommand is docker-compose (version 1) or docker compose (version 2), whichever is there.
var composeCommand = sync.OnceValue(func() []string {
	if _, err := exec.LookPath("docker-compose"); err == nil {
		return []string{"docker-compose"}
	}
	if exec.Command("docker", "compose", "version").Run() == nil {
		return []string{"docker", "compose"}
	}
	return nil
})

// needDocker skips the test where there is no docker, or no root to cut links and kill processes; in CI that is a failure.
func needDocker(t *testing.T) {
	t.Helper()
	missing := ""
	if err := exec.Command("docker", "info").Run(); err != nil {
		missing = "docker does not answer (is dockerd running?)"
	} else if composeCommand() == nil {
		missing = "neither docker-compose nor docker compose is installed"
	} else if _, err := exec.LookPath("ip"); err != nil {
		missing = "the command ip is not installed (package iproute2)"
	} else if os.Geteuid() != 0 {
		missing = "it needs root: it cuts links between containers and kills their processes"
	}
	switch {
	case missing == "":
	case os.Getenv("CI") != "":
		t.Fatal(missing)
	default:
		t.Skip("SKIPPED: " + missing)
	}
}

// container is one container of a site.
type container struct {
	ID      string
	Name    string
	Service string
	Site    string // of the compose project
}

// containers are those of a compose project, running or not, in the order of their names.
func containers(ctx context.Context, project string) ([]container, error) {
	out, err := docker(ctx, "ps", "--all", "--no-trunc", "--filter", "label=com.docker.compose.project="+project,
		"--format", `{{.ID}} {{.Names}} {{.Label "com.docker.compose.service"}} {{.Label "com.docker.compose.oneoff"}}`)
	if err != nil {
		return nil, err
	}
	var all []container
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 4 && strings.EqualFold(f[3], "False") {
			all = append(all, container{ID: f[0], Name: f[1], Service: f[2]})
		}
	}
	slices.SortFunc(all, func(a, b container) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// inspection is what docker inspect says of a container, as far as it is asked for.
type inspection struct {
	State struct {
		Pid    int
		Status string
		Health *struct{ Status string }
	}
	RestartCount int
	Config       struct{ User string }
	HostConfig   struct {
		ReadonlyRootfs bool
		Privileged     bool
		CapDrop        []string
		CapAdd         []string
		SecurityOpt    []string
		Memory         int64
		NanoCpus       int64
		LogConfig      struct {
			Type   string
			Config map[string]string
		}
	}
	Mounts []struct {
		Source, Destination string
		RW                  bool
	}
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress string }
	}
}

func inspect(ctx context.Context, id string) (inspection, error) {
	var all []inspection
	out, err := docker(ctx, "inspect", id)
	if err != nil {
		return inspection{}, err
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		return inspection{}, fmt.Errorf("read docker inspect %s: %w", id, err)
	}
	return all[0], nil
}

// killHard sends SIGKILL to a container's process past docker, which is a crash to docker: its restart policy applies.
func killHard(ctx context.Context, c container) error {
	i, err := inspect(ctx, c.ID)
	if err != nil {
		return err
	}
	if i.State.Pid == 0 {
		return fmt.Errorf("kill %s: it does not run (%s)", c.Name, i.State.Status)
	}
	return syscall.Kill(i.State.Pid, syscall.SIGKILL)
}

// each does something to every container at the same time.
func each(all []container, do func(container) error) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, c := range all {
		wg.Go(func() { errs[i] = do(c) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// ids are the containers' ids, for one docker command.
func ids(verb []string, all []container) []string {
	args := slices.Clone(verb)
	for _, c := range all {
		args = append(args, c.ID)
	}
	return args
}

// await asks until ok holds; what it waits for is a state that is only to be had by asking.
func await(ctx context.Context, what string, every time.Duration, ok func() (bool, string)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		done, last := ok()
		if done {
			return nil
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s (last: %s): %w", what, last, context.Cause(ctx))
		}
	}
}
