package pool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
)

const recordVersion = 1

// poolRecord is pool.json.
type poolRecord struct {
	ID string `json:"id"`
}

// volumeRecord is a volume or a snapshot.
type volumeRecord struct {
	ID      string    `json:"id"`
	Layer   string    `json:"layer"`
	Created time.Time `json:"created"`
	// Of is the volume that a snapshot was taken of; it makes this a snapshot. Origin is what a clone was made of.
	Of         string            `json:"of,omitempty"`
	Origin     string            `json:"origin,omitempty"`
	Durability domain.Durability `json:"durability"`
	IOPS       int64             `json:"iops,omitempty"`
	Bandwidth  int64             `json:"bandwidth,omitempty"` // bytes a second
}

// layerRecord is a layer. Device is the file or block device outside of the pool that it is, if it is one.
type layerRecord struct {
	Parent     string `json:"parent,omitempty"`
	SizeBytes  int64  `json:"size_bytes"`
	LimitBytes int64  `json:"limit_bytes,omitempty"`
	Device     string `json:"device,omitempty"`
}

// envelope is what a record's file holds: one JSON object. The checksum is of the record without white space.
type envelope struct {
	Version  int             `json:"version"`
	Kind     string          `json:"kind"`
	Checksum string          `json:"checksum"`
	Record   json.RawMessage `json:"record"`
}

func checksum(record []byte) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, record); err != nil {
		return "", err
	}
	return fmt.Sprintf("crc32c:%08x", crc32.Checksum(b.Bytes(), crc32.MakeTable(crc32.Castagnoli))), nil
}

// readRecord reads a record strictly: a version, kind, key or checksum that is not expected is an error.
func readRecord[T any](path, kind string) (T, error) {
	var v T
	raw, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	damaged := func(what string) error {
		return fmt.Errorf("record %s: %s: %w; restore the file from a copy", path, what, errDamaged)
	}
	var e envelope
	if err := strictly(raw, &e); err != nil {
		return v, damaged(err.Error())
	}
	if e.Version != recordVersion || e.Kind != kind {
		return v, damaged(fmt.Sprintf("it is a %q of version %d, not a %q of version %d", e.Kind, e.Version, kind, recordVersion))
	}
	if sum, err := checksum(e.Record); err != nil || sum != e.Checksum {
		return v, damaged("its checksum differs")
	}
	if err := strictly(e.Record, &v); err != nil {
		return v, damaged(err.Error())
	}
	return v, nil
}

var errDamaged = errors.New("damaged")

func strictly(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one object")
	}
	return nil
}

// writeRecord makes a record durable, replacing the one there is at once. A failure leaves the old one, or the new one.
func writeRecord(path, kind string, v any) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write record %s: %w", path, err)
		}
	}()
	record, err := json.Marshal(v)
	if err != nil {
		return err
	}
	sum, err := checksum(record)
	if err != nil {
		return err
	}
	raw, err := json.MarshalIndent(envelope{Version: recordVersion, Kind: kind, Checksum: sum, Record: record}, "", "  ")
	if err != nil {
		return err
	}
	temp := filepath.Join(filepath.Dir(path), ".new-"+filepath.Base(path))
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("%w: %w", errUnknown, err)
	}
	return nil
}

// errUnknown: the new record or the old one will be found after a loss of power, nobody knows which.
var errUnknown = errors.New("it is not known whether the record is durable")

// removeFile removes a file's name durably; one that is gone already is fine.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}
