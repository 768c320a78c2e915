//go:build e2e

package serve

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDiscoveryHasASecretOfItsOwn lets libiscsi ask what there is: who has the secret of discovery is told, and has to know
// the volume's own to log in to it.
func TestDiscoveryHasASecretOfItsOwn(t *testing.T) {
	need(t, "iscsi-ls", "iscsi-readcapacity16")
	dir := t.TempDir()
	for name, secret := range map[string]string{"discovery": "discoverysecret1", "volume": "volumesecret123"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url, _ := start(t, Options{File: filepath.Join(dir, "disk.img"), Size: "64MiB", Listen: "127.0.0.1:0", CHAP: "vm:" + filepath.Join(dir, "volume"),
		DiscoveryCHAP: "finder:" + filepath.Join(dir, "discovery")})
	with := func(url, login string) string { return strings.Replace(url, "iscsi://", "iscsi://"+login, 1) }
	portal := strings.Join(strings.Split(url, "/")[:3], "/")
	for login, ok := range map[string]bool{"": false, "vm%volumesecret123@": false, "finder%wrongwrongwrong@": false, "finder%discoverysecret1@": true} {
		if out, err := tool(t, "iscsi-ls", with(portal, login)); (err == nil) != ok || strings.Contains(out, "Target:") != ok {
			t.Errorf("iscsi-ls as %q: %v\n%s", login, err, out)
		}
	}
	for login, ok := range map[string]bool{"finder%discoverysecret1@": false, "vm%volumesecret123@": true} {
		if out, err := tool(t, "iscsi-readcapacity16", with(url, login)); (err == nil) != ok {
			t.Errorf("iscsi-readcapacity16 as %q: %v\n%s", login, err, out)
		}
	}
}
