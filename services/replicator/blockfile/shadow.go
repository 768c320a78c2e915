package blockfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const shadowHead = 4096 // the boot's id, padded with zeroes

// Shadow is memory that outlives the process and not the machine's boot: a mapped file that names the boot it was written
// in. It is a layer.Shadow.
type Shadow struct {
	f    *os.File
	kept bool
	maps [][]byte
}

// OpenShadow opens the shadow in path, and begins an empty one when there is none of this boot.
func OpenShadow(path string) (*Shadow, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	head := make([]byte, shadowHead)
	copy(head, strings.TrimSpace(string(id)))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s := &Shadow{f: f}
	has := make([]byte, shadowHead)
	if n, _ := f.ReadAt(has, 0); n == shadowHead && bytes.Equal(has, head) {
		s.kept = true
		return s, nil
	}
	// What another boot left goes before this boot's name comes: whoever is killed in between finds no name, or no bits.
	if err = f.Truncate(0); err == nil {
		_, err = f.WriteAt(head, 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin %s: %w", path, err), f.Close())
	}
	return s, nil
}

// Bits implements layer.Shadow. The space is taken at once: a mapped hole that finds no space kills the process.
func (s *Shadow) Bits(n int64) (bits []byte, kept bool, err error) {
	info, err := s.f.Stat()
	if err != nil {
		return nil, false, err
	}
	zero := make([]byte, 64<<10)
	for off := info.Size(); off < shadowHead+n; {
		part := zero[:min(int64(len(zero)), shadowHead+n-off)]
		if _, err := s.f.WriteAt(part, off); err != nil {
			return nil, false, err
		}
		off += int64(len(part))
	}
	m, err := unix.Mmap(int(s.f.Fd()), 0, int(shadowHead+n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, false, fmt.Errorf("map %s: %w", s.f.Name(), err)
	}
	s.maps = append(s.maps, m)
	return m[shadowHead:], s.kept, nil
}

// Close lets go of the memory; nobody may use it any more.
func (s *Shadow) Close() error {
	err := s.f.Close()
	for _, m := range s.maps {
		err = errors.Join(err, unix.Munmap(m))
	}
	s.maps = nil
	return err
}
