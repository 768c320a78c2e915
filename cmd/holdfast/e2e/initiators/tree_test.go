//go:build e2e

package initiators

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// tree is a guest's root folder while it is put together.
type tree struct {
	t       *testing.T
	dir     string
	release string // of the guest's kernel
	modules []string
}

//go:embed init.sh
var initScript string

// newTree is a root with a shell, an init that answers on the serial lines, and what every guest needs of the kernel.
func newTree(t *testing.T) *tree {
	t.Helper()
	need(t, "qemu-system-x86_64", "cpio", "modprobe", "busybox", "ldd")
	images, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if len(images) == 0 {
		need(t, "a kernel for guests (package linux-image-cloud-amd64)")
	}
	slices.Sort(images)
	r := &tree{t: t, dir: t.TempDir(), release: strings.TrimPrefix(filepath.Base(images[len(images)-1]), "vmlinuz-")}
	for _, d := range []string{"usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "applets", "dev", "proc", "sys", "tmp", "run", "root", "mnt", "modules", "etc"} {
		r.mkdir(d)
	}
	for _, d := range []string{"bin", "sbin", "lib", "lib64"} {
		r.link("usr/"+d, d)
	}
	r.copy("/bin/busybox")
	r.link("/bin/busybox", "bin/sh")
	r.file("init", initScript, 0o755)
	r.load("virtio_pci", "virtio_blk", "virtio_net", "crc32c_intel")
	return r
}

func (r *tree) kernel() string { return "/boot/vmlinuz-" + r.release }

func (r *tree) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal("put the guest together: ", err)
	}
}

func (r *tree) mkdir(name string) { r.check(os.MkdirAll(filepath.Join(r.dir, name), 0o755)) }

func (r *tree) link(to, name string) { r.check(os.Symlink(to, filepath.Join(r.dir, name))) }

func (r *tree) file(name, text string, mode os.FileMode) {
	r.t.Helper()
	r.mkdir(filepath.Dir(name))
	r.check(os.WriteFile(filepath.Join(r.dir, name), []byte(text), mode))
}

// copy puts files and folders of the host into the guest, at the same place.
func (r *tree) copy(names ...string) {
	r.t.Helper()
	for _, name := range names {
		r.mkdir(filepath.Dir(name))
		command(r.t, "cp", "-RL", "--preserve=mode", name, filepath.Join(r.dir, filepath.Dir(name)))
	}
}

var libraryLine = regexp.MustCompile(`(/\S+) \(0x`)

// program puts programs of the host into the guest, with the libraries they are linked to.
func (r *tree) program(names ...string) {
	r.t.Helper()
	need(r.t, names...)
	for _, name := range names {
		file, err := exec.LookPath(name)
		r.check(err)
		r.copy(file)
		r.libraries(file)
	}
}

func (r *tree) libraries(file string) {
	r.t.Helper()
	for _, m := range libraryLine.FindAllStringSubmatch(command(r.t, "ldd", file), -1) {
		if _, err := os.Stat(filepath.Join(r.dir, m[1])); err != nil {
			r.copy(m[1])
		}
	}
}

// load has init load kernel modules, each after those it depends on.
func (r *tree) load(names ...string) {
	r.t.Helper()
	for _, name := range names {
		for line := range strings.Lines(command(r.t, "modprobe", "-S", r.release, "--show-depends", name)) {
			word := strings.Fields(line)
			if len(word) < 2 || word[0] != "insmod" || slices.Contains(r.modules, word[1]) {
				continue // built in, or there already
			}
			r.modules = append(r.modules, word[1])
			command(r.t, "cp", word[1], filepath.Join(r.dir, "modules"))
		}
	}
}

// initrd packs the tree.
func (r *tree) initrd() string {
	r.t.Helper()
	var list strings.Builder
	for _, m := range r.modules {
		list.WriteString("/modules/" + filepath.Base(m) + "\n")
	}
	r.file("modules/list", list.String(), 0o644)
	file := filepath.Join(r.t.TempDir(), "initrd")
	command(r.t, "sh", "-c", `cd "$1" && find . | cpio --quiet -o -H newc -R 0:0 >"$2"`, "sh", r.dir, file)
	return file
}
