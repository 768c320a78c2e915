package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
)

func TestSecretStaysOffTheCommandLine(t *testing.T) {
	spec := hostagent.Spec{VM: "erp-1", Site: "a", Host: "h1", Dir: t.TempDir()}
	args, err := (&Driver{HeaderDigest: true}).disk(1, spec, api.Disk{Volume: "data", URL: "iscsi://bob%averylongsecret@127.0.0.1:3260/iqn.x:y/3"})
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Join(args, " ")
	if strings.Contains(line, "averylongsecret") {
		t.Fatal(line)
	}
	for _, want := range []string{`"portal":"127.0.0.1:3260"`, `"lun":3`, `"user":"bob"`, `"header-digest":"crc32c"`, "werror=stop,rerror=stop,serial=data", "addr=0x11"} {
		if !strings.Contains(line, want) {
			t.Errorf("no %s in %s", want, line)
		}
	}
	file := filepath.Join(spec.Dir, "disk1.secret")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
}

func TestTheHostsOwnCHAPSecretIsHandedToQEMUInAFile(t *testing.T) {
	spec := hostagent.Spec{VM: "erp-1", Site: "a", Host: "h1", Dir: t.TempDir()}
	d := &Driver{CHAP: func() initiator.CHAP { return initiator.CHAP{User: "main-a", Secret: "averylongsecret"} }}
	args, err := d.disk(0, spec, api.Disk{Volume: "data", URL: "iscsi://127.0.0.1:3260/iqn.x:y/0"})
	if err != nil {
		t.Fatal(err)
	}
	line, file := strings.Join(args, " "), filepath.Join(spec.Dir, "disk0.secret")
	if strings.Contains(line, "averylongsecret") || !strings.Contains(line, "secret,id=disk0secret,file="+file) || !strings.Contains(line, `"user":"main-a"`) {
		t.Error(line)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "averylongsecret" {
		t.Errorf("%q, %v", raw, err)
	}
}

func TestCommasAreEscapedInOptions(t *testing.T) {
	if got := escape("/a,b/c"); got != "/a,,b/c" {
		t.Fatal(got)
	}
}
