// Package durable writes small files so that neither a crash of the process nor a loss of power leaves one half written or takes one back
// that was reported written.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Step is a place in a write at which a test may stop it.
type Step string

// The steps, in order. Stopped before Renamed the old content is there; after it the new one, which a loss of power may still take back
// before DirSynced.
const (
	Written   Step = "temporary file written"
	Synced    Step = "temporary file synced"
	Renamed   Step = "renamed"
	DirSynced Step = "directory synced"
)

// suffix is of the temporary file beside the one that is written. One that a crash left is written over by the next write.
const suffix = ".new"

// WriteFile replaces a file's content, all of it or nothing; when it returns nil, nothing takes it back. After an error the file holds the old
// content or the new. One write of a path at a time: two would use the same temporary file.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	return WriteFileAt(path, data, mode, func(Step) error { return nil })
}

// WriteFileAt is WriteFile that calls at after each step; an error there stops it.
func WriteFileAt(path string, data []byte, mode fs.FileMode, at func(Step) error) error {
	temp := path + suffix
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = at(Written)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = at(Synced)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp)) // it would only take room
	}
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	if err := at(Renamed); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return at(DirSynced)
}

// SyncDir makes the names in a folder durable: those that were made, renamed and removed.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
