package guest

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// wanted are the kernel modules the guest needs, where they are not built in.
var wanted = []string{"virtio_pci", "virtio_blk", "virtio_net", "ext4"}

// agentModules are those that the guest agent's port needs.
var agentModules = []string{"virtio_console"}

// moduleFiles lists the files of the wanted modules, and more, under /lib/modules/VERSION, each after those it depends on, as
// modprobe --show-depends does.
func moduleFiles(dir string, more ...string) ([]string, error) {
	deps, err := readDeps(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("read module dependencies: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read built-in modules: %w", err)
	}
	byName := map[string]string{}
	for file := range deps {
		byName[moduleName(file)] = file
	}
	var out []string
	for _, name := range slices.Concat(wanted, more) {
		file, ok := byName[name]
		if ok {
			out = inOrder(out, deps, file)
			continue
		}
		inside := slices.ContainsFunc(strings.Fields(string(builtin)), func(f string) bool { return moduleName(f) == name })
		if !inside {
			return nil, fmt.Errorf("kernel module %s is not in %s: %w", name, dir, domain.ErrNotFound)
		}
	}
	return out, nil
}

// inOrder appends file after its dependencies, each once.
func inOrder(out []string, deps map[string][]string, file string) []string {
	if slices.Contains(out, file) {
		return out
	}
	for _, d := range deps[file] {
		out = inOrder(out, deps, d)
	}
	return append(out, file)
}

// readDeps reads modules.dep: "file: dependency dependency ...".
func readDeps(name string) (map[string][]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	deps := map[string][]string{}
	for s := bufio.NewScanner(f); s.Scan(); {
		file, rest, ok := strings.Cut(s.Text(), ":")
		if ok {
			deps[file] = strings.Fields(rest)
		}
	}
	return deps, nil
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".")
	return strings.ReplaceAll(name, "-", "_")
}
