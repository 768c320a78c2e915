package filevoter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
)

// ErrCorrupt is a record that cannot be believed. The voter must not vote.
var ErrCorrupt = errors.New("vote record is torn or corrupt")

// Point is a place in a durable write at which a test may stop the voter.
type Point = durable.Step

// The points, in order.
const (
	TempWritten = durable.Written
	TempSynced  = durable.Synced
	Renamed     = durable.Renamed
	DirSynced   = durable.DirSynced

	Mirrored Point = "volatile state mirrored"
)

// store keeps one group's record and its volatile mirror.
type store struct {
	path   string
	mirror string // "" keeps neither this nor a memory of the record
	bootID string
	fault  func(Point) error // tests only
}

// volatileFile is the mirror's content.
type volatileFile struct {
	BootID string        `json:"boot_id"`
	Vol    core.Volatile `json:"volatile"`
}

// memoryFile is what the voter remembers of the record that it stored last.
type memoryFile struct {
	BootID string      `json:"boot_id"`
	Rec    core.Record `json:"record"`
}

// loaded is what load found.
type loaded struct {
	rec     core.Record
	vol     core.Volatile
	outdone bool // the file was older than what the voter stored in this boot, and was written anew
}

// load reads the record and rebuilds the volatile state. A record that was never written is the zero record.
func (s *store) load(now core.Instant) (loaded, error) {
	var l loaded
	err := readSealed(s.path, &l.rec)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return loaded{}, fmt.Errorf("read vote record %s: %w", s.path, err)
	}
	none := err != nil
	if m, ok := s.remembered(); ok && l.rec.OlderThan(m) {
		if m.OlderThan(l.rec) {
			return loaded{}, fmt.Errorf("read vote record %s: %w: it is of another history than what this voter stored in this boot", s.path, ErrCorrupt)
		}
		if err := s.saveRecord(m); err != nil {
			return loaded{}, fmt.Errorf("write vote record %s anew: %w", s.path, err)
		}
		l.rec, l.outdone, none = m, true, false
	}
	if !none {
		l.vol = s.volatile(l.rec, now)
	}
	return l, nil
}

// remembered is the record that this voter stored last in this boot, false where that is not known.
func (s *store) remembered() (core.Record, bool) {
	var m memoryFile
	if s.mirror == "" || readSealed(s.mirror+memorySuffix, &m) != nil || m.BootID != s.bootID {
		return core.Record{}, false
	}
	return m.Rec, true
}

func (s *store) volatile(rec core.Record, now core.Instant) core.Volatile {
	var v volatileFile
	if s.mirror == "" || readSealed(s.mirror, &v) != nil {
		return core.Unknown(rec, now)
	}
	if v.BootID != s.bootID {
		return core.Rebooted(rec)
	}
	return v.Vol
}

// save makes the outcome of a request durable.
func (s *store) save(rec core.Record, vol core.Volatile, persist, mirror bool) error {
	if persist {
		if err := s.saveRecord(rec); err != nil {
			return fmt.Errorf("write vote record %s: %w", s.path, err)
		}
		if s.mirror != "" {
			if err := saveMemory(s.mirror+memorySuffix, memoryFile{BootID: s.bootID, Rec: rec}); err != nil {
				return fmt.Errorf("remember vote record: %w", err)
			}
		}
	}
	if (persist || mirror) && s.mirror != "" {
		if err := s.saveMirror(vol); err != nil {
			return fmt.Errorf("mirror volatile vote state %s: %w", s.mirror, err)
		}
	}
	return nil
}

func (s *store) saveRecord(rec core.Record) error {
	data, err := seal(rec)
	if err != nil {
		return err
	}
	return durable.WriteFileAt(s.path, data, 0o600, s.at)
}

func (s *store) saveMirror(vol core.Volatile) error {
	if err := saveMemory(s.mirror, volatileFile{BootID: s.bootID, Vol: vol}); err != nil {
		return err
	}
	return s.at(Mirrored)
}

// saveMemory replaces a file on tmpfs. It needs no fsync: after a crash of the machine it is not believed anyway.
func saveMemory(path string, v any) error {
	data, err := seal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (s *store) at(p Point) error {
	if s.fault == nil {
		return nil
	}
	return s.fault(p)
}

const magic = "holdfast-vote-1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal is the file format: magic, CRC-32C of the body in hex, newline, the body as JSON, newline.
func seal(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	return fmt.Appendf(nil, "%s %08x\n%s\n", magic, crc32.Checksum(body, castagnoli), body), nil
}

// unseal undoes seal. The error wraps ErrCorrupt.
func unseal(data []byte, into any) error {
	head, body, ok := bytes.Cut(data, []byte("\n"))
	body, whole := bytes.CutSuffix(body, []byte("\n"))
	sum, good := strings.CutPrefix(string(head), magic+" ")
	if !ok || !whole || !good || sum != fmt.Sprintf("%08x", crc32.Checksum(body, castagnoli)) {
		return fmt.Errorf("%w: %d bytes, checksum differs", ErrCorrupt, len(data))
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

func readSealed(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return unseal(data, into)
}

// BootID is the kernel's name for this boot.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w: %w", domain.ErrUnavailable, err)
	}
	return strings.TrimSpace(string(b)), nil
}
