package demo

import (
	"errors"
	"math"
	"strings"
	"syscall"
	"testing"
)

func TestDemoRefusesAFolderWithoutRoom(t *testing.T) {
	dir := t.TempDir()
	if err := roomIn(dir, 0); err != nil {
		t.Fatal(err)
	}
	err := roomIn(dir, math.MaxUint64)
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("no error that names the folder and the mend: %v", err)
	}
}
