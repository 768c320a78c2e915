package sitefolder_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitefolder"
)

// belongs tells of every file in a folder that is another user's.
func belongs(t *testing.T, dir string, uid int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if have := int(info.Sys().(*syscall.Stat_t).Uid); have != uid {
			t.Errorf("%s belongs to user %d; its containers run as %d", path, have, uid)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheFolderBelongsToTheUserOfItsContainersWhoIsNeverRoot(t *testing.T) {
	s := joined(t)
	uid := os.Getuid()
	if uid == 0 {
		uid = 65532
	}
	for _, site := range []string{"a", "b", "w"} {
		env, err := os.ReadFile(s.file(site, ".env"))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("HOLDFAST_UID=%d\n", uid); !strings.Contains(string(env), want) {
			t.Errorf(".env of site %s has no %s: %s", site, want, env)
		}
	}
	rotate(t, sitefolder.Rotation{Dir: s.file("b")})
	join(t, s.file("a"), s.file("b", "rotate", "b.card.json"))
	rotate(t, sitefolder.Rotation{Dir: s.file("a")})
	join(t, s.file("b"), s.file("a", "installation.json"))
	for _, site := range []string{"a", "b", "w"} {
		belongs(t, s.file(site), uid)
	}
}

func TestTheDashboardCanBeReadByWhoeverShowsIt(t *testing.T) {
	s := made(t)
	for _, path := range []string{"prometheus/prometheus.yml", "prometheus/alerts.yml", "dashboards/holdfast.json", "provisioning/datasources/holdfast.yml"} {
		for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
			info, err := os.Stat(s.file("a", "grafana", dir))
			if err != nil || info.Mode().Perm() != 0o755 {
				t.Fatalf("folder grafana/%s: %v %v", dir, info, err)
			}
			if dir == "." {
				break
			}
		}
		if info, err := os.Stat(s.file("a", "grafana", path)); err != nil || info.Mode().Perm() != 0o644 || info.Size() == 0 {
			t.Errorf("grafana/%s: %v %v", path, info, err)
		}
	}
}
