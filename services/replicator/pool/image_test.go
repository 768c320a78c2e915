package pool

import (
	"errors"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// A guest can write the head of such an image into its own disk, and name any file of the host in it.
func TestAnImageThatTakesDataFromOtherFilesIsNotImported(t *testing.T) {
	for told, size := range map[string]int64{
		`{"virtual-size": 4096, "format": "qcow2", "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}}}`:           4096,
		`{"virtual-size": 4096, "format-specific": {"data": {"extents": [{"filename": "a.vmdk"}]}}}`:                           4096,
		`{"virtual-size": 4096, "backing-filename": "/etc/shadow", "full-backing-filename": "/etc/shadow"}`:                    0,
		`{"virtual-size": 4096, "format-specific": {"data": {"data-file": "/dev/sda", "data-file-raw": true}}}`:                0,
		`{"virtual-size": 4096, "format-specific": {"data": {"extents": [{"filename": "a.vmdk"}, {"filename": "/dev/sda"}]}}}`: 0,
	} {
		got, err := sizeOfImage([]byte(told), "a.vmdk")
		if got != size || (size == 0) != errors.Is(err, domain.ErrInvalid) {
			t.Errorf("%s: %d, %v", told, got, err)
		}
	}
	if _, err := sizeOfImage([]byte("no JSON"), "a.vmdk"); err == nil {
		t.Error("garbage was taken for an answer")
	}
}
