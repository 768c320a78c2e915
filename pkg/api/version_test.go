package api

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestOnlyAnotherMajorVersionIsRefused(t *testing.T) {
	ours := Version{2, 3}
	for theirs, mend := range map[string]string{
		"": "", "2.0": "", "2.3": "", "2.9": "",
		"3.0": "upgrade this service", "1.9": "upgrade the peer", "two": "want major.minor", "2": "want major.minor", "0.1": "want major.minor",
	} {
		err := ours.Accepts(theirs)
		switch {
		case mend == "" && err != nil:
			t.Errorf("%q is refused: %v", theirs, err)
		case mend != "" && (err == nil || !strings.Contains(err.Error(), mend)):
			t.Errorf("%q: %v, want %q", theirs, err, mend)
		}
	}
	err := ours.Accepts("3.1")
	if !errors.Is(err, domain.ErrRefused) || !strings.Contains(err.Error(), "3.1") || !strings.Contains(err.Error(), "2.3") {
		t.Errorf("both versions are to be named: %v", err)
	}
}
