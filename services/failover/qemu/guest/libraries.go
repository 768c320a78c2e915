package guest

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// libraryDirs are where the dynamic linker looks by itself.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}

// libraries lists what dynamically linked executables need beside them in the guest: their dynamic linker and every shared
// library, directly or not. A static one needs nothing.
func libraries(programs ...string) ([]string, error) {
	var found []string
	for _, p := range programs {
		if err := librariesOf(p, &found); err != nil {
			return nil, fmt.Errorf("take %s into the guest: %w", p, err)
		}
	}
	return found, nil
}

func librariesOf(program string, found *[]string) error {
	f, err := elf.Open(program)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	at := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if at < 0 {
		return nil
	}
	name, err := io.ReadAll(f.Progs[at].Open())
	if err != nil {
		return err
	}
	if linker := string(name[:max(0, len(name)-1)]); !slices.Contains(*found, linker) { // ends with a NUL
		*found = append(*found, linker)
	}
	if err := needed(f, found); err != nil {
		return fmt.Errorf("%w (build it with CGO_ENABLED=0)", err)
	}
	return nil
}

func needed(f *elf.File, found *[]string) error {
	names, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, name := range names {
		if slices.ContainsFunc(*found, func(p string) bool { return filepath.Base(p) == name }) {
			continue
		}
		file, err := findLibrary(name)
		if err != nil {
			return err
		}
		*found = append(*found, file)
		lib, err := elf.Open(file)
		if err != nil {
			return err
		}
		err = needed(lib, found)
		if err := errors.Join(err, lib.Close()); err != nil {
			return err
		}
	}
	return nil
}

func findLibrary(name string) (string, error) {
	for _, dir := range libraryDirs {
		if p := filepath.Join(dir, name); fileExists(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("shared library %s: %w", name, domain.ErrNotFound)
}

// parents lists the folders above the files, each before those in it, as names in an archive.
func parents(files []string) []string {
	var out []string
	for _, f := range files {
		var up []string
		for d := filepath.Dir(f); d != "/" && d != "."; d = filepath.Dir(d) {
			up = append(up, d[1:])
		}
		slices.Reverse(up)
		for _, d := range up {
			if !slices.Contains(out, d) {
				out = append(out, d)
			}
		}
	}
	return out
}
