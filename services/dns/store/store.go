// Package store keeps a zone in one file, durable before a change is answered. The file is replaced as a whole: written
// beside the old one, fsynced, renamed over it, and the directory fsynced, so that after a crash at any point either the
// old or the new zone is there. A checksum tells a damaged file from a whole one.
//
//	holdfast-zone 1 <crc32c of the body, 8 hex digits> <length of the body>\n
//	<body: JSON of origin, serial and records>
package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/durable"
	"github.com/holdfast-dr/holdfast/services/dns/zone"
)

// ErrCorrupt is a zone file that is not what was written.
var ErrCorrupt = errors.New("zone file is damaged")

const (
	headerFormat = "holdfast-zone 1 %08x %d\n"
	tempSuffix   = ".new"
)

type body struct {
	Origin  string        `json:"origin"`
	Serial  uint32        `json:"serial"`
	Records []zone.Record `json:"records"`
}

// File is a zone file. One process may have it at a time; its methods are not safe for concurrent use.
type File struct{ path string }

// Open names the zone file at path and makes its directory. What a crash left half-written is removed.
func Open(path string) (*File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("open zone file %s: %w", path, err)
	}
	if err := os.Remove(path + tempSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open zone file %s: %w", path, err)
	}
	return &File{path: path}, nil
}

// Load reads the zone of origin; found is false when there is no file yet. A damaged file is ErrCorrupt, and nothing is
// changed: a zone that silently began anew could answer with addresses of long ago.
func (f *File) Load(origin string) (z zone.Zone, found bool, err error) {
	raw, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		z, err = zone.New(origin)
		return z, false, err
	}
	if err != nil {
		return zone.Zone{}, false, fmt.Errorf("read zone file: %w", err)
	}
	b, err := decode(raw)
	if err != nil {
		return zone.Zone{}, false, fmt.Errorf("read zone file %s: %w (%w): move it away and start again; the records come back from "+
			"another site's dns service, or else from the configuration at epoch 0: then check the addresses before clients use them",
			f.path, err, ErrCorrupt)
	}
	if z, err = zone.New(origin); err != nil {
		return zone.Zone{}, false, err
	}
	if b.Origin != z.Origin() {
		return zone.Zone{}, false, fmt.Errorf("read zone file %s: it holds zone %s, the configuration says %s: name the file of that zone, or move this one away",
			f.path, b.Origin, z.Origin())
	}
	z, err = zone.Load(b.Origin, b.Serial, b.Records)
	if err != nil {
		return zone.Zone{}, false, fmt.Errorf("read zone file %s: %w (%w)", f.path, err, ErrCorrupt)
	}
	return z, true, nil
}

// Save makes z durable. After an error either zone may be in the file; the caller keeps the old one and may save again.
func (f *File) Save(z zone.Zone) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write zone file %s: %w", f.path, err)
		}
	}()
	raw, err := encode(z)
	if err != nil {
		return err
	}
	return durable.WriteFile(f.path, raw, 0o640)
}

func encode(z zone.Zone) ([]byte, error) {
	b, err := json.MarshalIndent(body{Origin: z.Origin(), Serial: z.Serial(), Records: z.Records()}, "", " ")
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, headerFormat, checksum(b), len(b)), b...), nil
}

func decode(raw []byte) (body, error) {
	header, rest, ok := bytes.Cut(raw, []byte("\n"))
	if !ok {
		return body{}, errors.New("no header line")
	}
	var sum uint32
	var length int
	if n, err := fmt.Sscanf(string(header)+"\n", headerFormat, &sum, &length); err != nil || n != 2 {
		return body{}, fmt.Errorf("header %.40q is not that of a zone file", header)
	}
	if length != len(rest) {
		return body{}, fmt.Errorf("body is %d bytes, the header says %d", len(rest), length)
	}
	if got := checksum(rest); got != sum {
		return body{}, fmt.Errorf("checksum is %08x, the header says %08x", got, sum)
	}
	var b body
	if err := json.Unmarshal(rest, &b); err != nil {
		return body{}, err
	}
	return b, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
