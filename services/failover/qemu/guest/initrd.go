package guest

import (
	"bytes"
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

// Kernel is a kernel on the host that guests can boot.
type Kernel struct {
	Image   string // vmlinuz
	Modules string // /lib/modules/VERSION
}

// FindKernel picks the newest cloud kernel of Debian that is installed with its modules. The error wraps
// domain.ErrNotFound and names the package to install.
func FindKernel() (Kernel, error) {
	images, err := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if err != nil {
		return Kernel{}, fmt.Errorf("find a guest kernel: %w", err)
	}
	slices.Sort(images)
	for _, image := range slices.Backward(images) {
		k := Kernel{Image: image, Modules: filepath.Join("/lib/modules", strings.TrimPrefix(filepath.Base(image), "vmlinuz-"))}
		if _, err := os.Stat(filepath.Join(k.Modules, "modules.dep")); err == nil {
			return k, nil
		}
	}
	return Kernel{}, fmt.Errorf("find a guest kernel: no /boot/vmlinuz-*-cloud-amd64 with modules: %w (package linux-image-cloud-amd64)", domain.ErrNotFound)
}

// BuildInitrd writes an initrd to file, at once or not at all. exe becomes /init; its main calls GuestInit when IsInit says
// so. Where it is linked dynamically, its libraries go with it. The QEMU guest agent is put beside it when the host has it.
func BuildInitrd(file string, k Kernel, exe string) error {
	programs, more := []string{exe}, []string(nil)
	if hasAgent() {
		programs, more = append(programs, agentProgram), agentModules
	}
	libs, err := libraries(programs...)
	if err != nil {
		return err
	}
	modules, err := moduleFiles(k.Modules, more...)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("build initrd: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // renamed when all went well
	err = fill(&archive{w: f}, k, modules, programs, libs)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("build initrd: %w", err)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("build initrd: %w", err)
	}
	return nil
}

// fill writes the archive: the first of the programs becomes its init, the others stand where they do on the host.
func fill(a *archive, k Kernel, modules []string, programs, libs []string) error {
	for _, dir := range []string{"bin", "dev", "mnt", "modules", "proc", "run", "sys"} {
		a.entry(dir, typeDir|0o755, 0, 0, 0, nil)
	}
	a.entry("dev/console", typeChar|0o600, 5, 1, 0, nil) // PID 1's standard input and output
	var list strings.Builder
	for _, m := range modules {
		name := "modules/" + path.Base(m)
		a.file(name, filepath.Join(k.Modules, m), 0o644)
		list.WriteString("/" + name + "\n")
	}
	a.entry(strings.TrimPrefix(moduleList, "/"), typeFile|0o644, 0, 0, int64(list.Len()), strings.NewReader(list.String()))
	if _, err := os.Stat("/bin/busybox"); err == nil { // for a person to look around
		a.file("bin/busybox", "/bin/busybox", 0o755)
		a.entry("bin/sh", typeLink|0o777, 0, 0, int64(len("busybox")), bytes.NewReader([]byte("busybox")))
	}
	for _, dir := range parents(append(slices.Clone(libs), programs[1:]...)) {
		a.entry(dir, typeDir|0o755, 0, 0, 0, nil)
	}
	for _, lib := range libs {
		a.file(lib[1:], lib, 0o755)
	}
	for _, p := range programs[1:] {
		a.file(p[1:], p, 0o755)
	}
	a.file("init", programs[0], 0o755)
	return a.close()
}

// file puts a file of the host into the archive.
func (a *archive) file(name, from string, mode int) {
	if a.err != nil {
		return
	}
	f, err := os.Open(from)
	if err != nil {
		a.err = err
		return
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		a.err = err
		return
	}
	a.entry(name, typeFile|mode, 0, 0, info.Size(), f)
}

// CachedInitrd is BuildInitrd into dir under a name made of what went into it, unless it is there already.
func CachedInitrd(dir string, k Kernel, exe string) (string, error) {
	info, err := os.Stat(exe)
	if err != nil {
		return "", fmt.Errorf("build initrd: %w", err)
	}
	agent := ""
	if hasAgent() {
		agent = "-agent"
	}
	file := filepath.Join(dir, fmt.Sprintf("initrd-%s-%x-%x%s.img", filepath.Base(k.Modules), info.Size(), info.ModTime().UnixNano(), agent))
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("build initrd: %w", err)
	}
	return file, BuildInitrd(file, k, exe)
}
