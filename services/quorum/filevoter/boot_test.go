package filevoter

import (
	"os"
	"path/filepath"
	"testing"
)

func TestVoterForgetsItsMemoryWhenItsFolderWasAtAnotherMachine(t *testing.T) {
	dir, here := t.TempDir(), t.TempDir()
	remembered := filepath.Join(here, "main.erp")
	begin := func(mirror, boot string) bool {
		t.Helper()
		other, err := ForgetOtherBoots(dir, mirror, boot, nil)
		if err != nil {
			t.Fatal(err)
		}
		return other
	}
	if !begin(here, "boot-of-x") {
		t.Fatal("a first start is taken for a restart")
	}
	if err := os.WriteFile(remembered, []byte("granted until"), 0o600); err != nil {
		t.Fatal(err)
	}
	if begin(here, "boot-of-x") {
		t.Fatal("a restart in the same boot is taken for a reboot")
	}
	if _, err := os.Stat(remembered); err != nil {
		t.Fatalf("a restart in the same boot forgets: %v", err)
	}
	if !begin(t.TempDir(), "boot-of-y") { // it may grant there
		t.Fatal("a start at another machine is taken for a restart")
	}
	if !begin(here, "boot-of-x") {
		t.Fatal("a return from another machine is taken for a restart")
	}
	if _, err := os.Stat(remembered); !os.IsNotExist(err) {
		t.Fatalf("what was granted elsewhere meanwhile is not known, yet the old memory is believed: %v", err)
	}
}
