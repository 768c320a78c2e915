package sharevoter

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/durable"
)

// ErrNonconforming is a share on which creating a name once does not do what a vote needs.
var ErrNonconforming = errors.New("share does not create a name once")

// Conform finds out in a folder of its own whether a share does what a chain rests on: a name that is taken is not taken
// again, keeps its content, and is seen by whoever lists. It tells what a broken file system or a wrong mount does; what
// another client's cache hides it cannot see. Errors: ErrNonconforming; domain.ErrUnavailable when it could not be tried, with
// ErrNotMounted where the share is not there.
func (s Share) Conform(cluster string) (err error) {
	share, probe := s.Dir, ".probe-"+rand.Text()
	dir := filepath.Join(share, cluster, probe)
	fail := func(err error) error { return fmt.Errorf("probe share %s: %w: %w", share, domain.ErrUnavailable, err) }
	if err := s.there(); err != nil {
		return fmt.Errorf("probe share %s: %w", share, err)
	}
	if err := s.makeDir(cluster, probe); err != nil {
		return fail(err)
	}
	defer func() {
		if rerr := os.RemoveAll(dir); rerr != nil && err == nil {
			err = fail(rerr)
		}
	}()
	first, second, name := filepath.Join(dir, "first"), filepath.Join(dir, "second"), filepath.Join(dir, "v1")
	for _, f := range []string{first, second} {
		if err := writeSynced(f, []byte(f)); err != nil {
			return fail(err)
		}
	}
	if err := os.Link(first, name); err != nil {
		return fmt.Errorf("probe share %s: %w: hard links cannot be made: %w", share, ErrNonconforming, err)
	}
	if err := os.Link(second, name); err == nil {
		return fmt.Errorf("probe share %s: %w: a second link to the same name succeeded", share, ErrNonconforming)
	} else if !errors.Is(err, fs.ErrExist) {
		return fail(err)
	}
	if err := durable.SyncDir(dir); err != nil {
		return fmt.Errorf("probe share %s: %w: a folder cannot be made durable: %w", share, ErrNonconforming, err)
	}
	got, err := os.ReadFile(name)
	if err != nil {
		return fail(err)
	}
	if !bytes.Equal(got, []byte(first)) {
		return fmt.Errorf("probe share %s: %w: a name that was taken has another's content", share, ErrNonconforming)
	}
	return nil
}
