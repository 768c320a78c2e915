package sitefolder_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitefolder"
	"github.com/holdfast-dr/holdfast/pkg/chap"
	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// trio is the folders of three sites, as the five commands make them.
type trio struct{ root, a, b, w string }

func (s trio) file(parts ...string) string {
	return filepath.Join(append([]string{s.root}, parts...)...)
}

func options(dir, name string, peers ...string) sitefolder.Options {
	o := sitefolder.Options{Dir: filepath.Join(dir, name), Name: domain.SiteID(name), Role: domain.SiteData, Address: "192.0.2." + map[string]string{"a": "1", "b": "2", "w": "3", "c": "4"}[name], Peers: peers}
	if name == "w" {
		o.Role = domain.SiteWitness
	}
	return o
}

func initSite(t *testing.T, o sitefolder.Options) sitefolder.Made {
	t.Helper()
	made, err := sitefolder.Init(o)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func join(t *testing.T, dir string, files ...string) sitefolder.Joined {
	t.Helper()
	j, err := sitefolder.Join(dir, files)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// made makes the three folders without joining them.
func made(t *testing.T) trio {
	t.Helper()
	s := trio{root: t.TempDir()}
	s.a, s.b, s.w = s.file("a"), s.file("b"), s.file("w")
	initSite(t, options(s.root, "a"))
	initSite(t, options(s.root, "b", s.file("a", "a.card.json")))
	initSite(t, options(s.root, "w", s.file("a", "a.card.json")))
	return s
}

func joined(t *testing.T) trio {
	t.Helper()
	s := made(t)
	join(t, s.a, s.file("b", "b.card.json"), s.file("w", "w.card.json"))
	join(t, s.b, s.file("a", "installation.json"))
	join(t, s.w, s.file("a", "installation.json"))
	return s
}

// contents is every file of a folder with its mode, by path.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil || d.IsDir() {
			out[path] = info.Mode().String()
			return err
		}
		raw, err := os.ReadFile(path)
		out[path] = info.Mode().String() + "\n" + string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestFiveCommandsMakeThreeSitesThatTrustOneAnother(t *testing.T) {
	s := joined(t)
	for _, c := range []struct {
		dir, site string
		sites     int
		compose   string
	}{{s.a, "a", 3, "replicator:"}, {s.b, "b", 3, "replicator:"}, {s.w, "w", 3, "quorum:"}} {
		cfg, err := config.Load(filepath.Join(c.dir, "config", "site.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		if string(cfg.Site) != c.site || len(cfg.Sites) != c.sites || cfg.Cluster != "main" || cfg.NATS.Local != "tls://nats-local:4222" ||
			cfg.Security.Secrets != filepath.Join(c.dir, "secrets") || cfg.DataDir != filepath.Join(c.dir, "data") || cfg.Metrics.Listen != "0.0.0.0:9190" {
			t.Errorf("site %s is configured as %+v", c.site, cfg)
		}
		for _, x := range cfg.Sites {
			if want := map[domain.SiteID]int{"a": 1, "b": 2, "w": 101}[x.ID]; x.Index != want {
				t.Errorf("site %s has index %d, want %d", x.ID, x.Index, want)
			}
		}
		creds, err := identity.Open(cfg.Security.Secrets, "quorum")
		if err != nil {
			t.Fatal(err)
		}
		if got := creds.Principal().String(); got != c.site+".quorum" {
			t.Errorf("the quorum of %s is %s", c.site, got)
		}
		compose, err := os.ReadFile(filepath.Join(c.dir, "docker-compose.yml"))
		if err != nil || !strings.Contains(string(compose), c.compose) {
			t.Errorf("compose file of %s: %v", c.site, err)
		}
		conf, err := os.ReadFile(filepath.Join(c.dir, "config", "nats.conf"))
		if err != nil || !strings.Contains(string(conf), `domain: "`+c.site+`"`) || !strings.Contains(string(conf), "/site/secrets/nats/server.pem") {
			t.Errorf("nats.conf of %s: %v\n%s", c.site, err, conf)
		}
	}
	if _, err := os.Stat(s.file("b", "ca")); !os.IsNotExist(err) {
		t.Errorf("b has a CA: %v", err)
	}
}

func TestPrivateFilesAreTheOwnersAloneAndNeverTravel(t *testing.T) {
	s := joined(t)
	private := 0
	for path, what := range contents(t, s.root) {
		mode, text, _ := strings.Cut(what, "\n")
		secret := strings.Contains(text, "PRIVATE KEY-") || strings.Contains(text, "SEED-") || strings.HasSuffix(path, ".nk")
		switch {
		case secret && mode != "-rw-------":
			t.Errorf("%s holds a secret and has mode %s", path, mode)
		case secret:
			private++
		case strings.Contains(path+"/", "/grafana/") || strings.HasPrefix(path, "grafana"): // others have to read it, and nothing in it is secret
		case strings.HasPrefix(mode, "d") && path != s.root && mode != "drwx------":
			t.Errorf("folder %s has mode %s", path, mode)
		}
		if secret && strings.HasSuffix(path, ".json") {
			t.Errorf("%s travels and holds a secret", path)
		}
	}
	if private < 30 {
		t.Errorf("only %d private files: the check looks for the wrong thing", private)
	}
}

func TestADataSiteHasACHAPSecretOfItsOwn(t *testing.T) {
	s := joined(t)
	seen := map[string]string{}
	for _, dir := range []string{s.a, s.b} {
		cfg, err := config.Load(sitefolder.Folder(dir).Config())
		if err != nil {
			t.Fatal(err)
		}
		c := cfg.ISCSI.CHAP
		if c.User != "main-"+filepath.Base(dir) || c.SecretFile != sitefolder.Folder(dir).CHAP() {
			t.Errorf("%s: %+v", dir, c)
		}
		got, err := chap.Read(chap.Settings(c)) // refuses modes that let others read
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Secrets) != 1 || len(got.Secrets[0]) != 24 || seen[got.Secrets[0]] != "" {
			t.Errorf("the secret of %s is %q", dir, got.Secrets)
		}
		seen[got.Secrets[0]] = dir
	}
	for path, what := range contents(t, s.root) {
		for secret, dir := range seen {
			if strings.Contains(what, secret) && path != sitefolder.Folder(dir).CHAP() {
				t.Errorf("the secret of %s is in %s", dir, path)
			}
		}
	}
	if _, err := os.Stat(sitefolder.Folder(s.w).CHAP()); !os.IsNotExist(err) {
		t.Errorf("a witness has one: %v", err)
	}
	if err := os.WriteFile(sitefolder.Folder(s.b).CHAP(), []byte("the new secret\nthe old secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if v, err := sitefolder.Show(s.b, time.Now()); err != nil || len(v.Problems) > 0 || len(v.Warnings) != 1 || !strings.Contains(v.Warnings[0], "remove the second line") {
		t.Errorf("while it is changed: %q %q, %v", v.Problems, v.Warnings, err)
	}
}

func TestJoiningAgainChangesNothing(t *testing.T) {
	s := joined(t)
	before := contents(t, s.root)
	join(t, s.a, s.file("b", "b.card.json"), s.file("w", "w.card.json"))
	j := join(t, s.b, s.file("a", "installation.json"))
	if j.Server || j.Sites || j.First {
		t.Errorf("told to have changed something: %+v", j)
	}
	after := contents(t, s.root)
	for path, was := range before {
		if after[path] != was {
			t.Errorf("%s has changed", path)
		}
	}
}

func TestAJoinThatWasInterruptedIsFinishedByTheNext(t *testing.T) {
	s := made(t)
	// The founder signed, and died before it wrote its own folder: what b shows is known already.
	before, err := os.ReadFile(s.file("a", "config", "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	join(t, s.a, s.file("b", "b.card.json"))
	if err := os.WriteFile(s.file("a", "config", "site.yaml"), before, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"installation.json", "config/nats.conf", "secrets/trust/installation.json"} {
		if err := os.Remove(s.file("a", f)); err != nil {
			t.Fatal(err)
		}
	}
	j := join(t, s.a, s.file("b", "b.card.json"))
	if !j.Signed[0].Before || !j.Sites || !j.Server {
		t.Errorf("joined %+v", j)
	}
	join(t, s.b, s.file("a", "installation.json"))
	if cfg, err := config.Load(s.file("a", "config", "site.yaml")); err != nil || len(cfg.Sites) != 2 {
		t.Errorf("%d sites, %v", len(cfg.Sites), err)
	}
}

func TestEditsOfTheOwnerOutliveAJoin(t *testing.T) {
	s := made(t)
	path := s.file("a", "config", "site.yaml")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(raw), "sites:\n  - {id: a,", "sites:\n  # the one in the cellar\n  -   {id: a ,  ", 1)
	text = strings.Replace(text, "level: info # debug", "level:   debug # while we test", 1) + "\n# the end\n"
	text = strings.Replace(text, "quorum:\n", "\n\n# we vote\nquorum:\n", 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	join(t, s.a, s.file("b", "b.card.json"), s.file("w", "w.card.json"))
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var added, rest []string
	for line := range strings.Lines(string(now)) {
		if strings.Contains(line, "{id: b,") || strings.Contains(line, "{id: w,") {
			added = append(added, line)
		} else {
			rest = append(rest, line)
		}
	}
	if strings.Join(rest, "") != text || len(added) != 2 {
		t.Errorf("want the owner's text and two lines, got\n%s", now)
	}
	if _, err := config.Load(path); err != nil {
		t.Error(err)
	}
}

func TestInitThatFailsLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	o := options(dir, "a")
	o.Groups = filepath.Join(dir, "groups.yaml")
	if err := os.WriteFile(o.Groups, []byte("groups:\n  - id: erp\n    home: a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := sitefolder.Init(o)
	if err == nil || !strings.Contains(err.Error(), "volumes") {
		t.Fatalf("want the group's mistake, got %v", err)
	}
	if _, err := os.Stat(o.Dir); !os.IsNotExist(err) {
		t.Errorf("the folder is there: %v", err)
	}
	// With --force what was there before comes back.
	o.Force = true
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "mine"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sitefolder.Init(o); err == nil {
		t.Fatal("no error")
	}
	if raw, err := os.ReadFile(filepath.Join(o.Dir, "mine")); err != nil || !bytes.Equal(raw, []byte("x")) {
		t.Errorf("what was there is gone: %v", err)
	}
	o.Groups = ""
	made := initSite(t, o)
	if _, err := os.Stat(filepath.Join(made.Aside, "mine")); err != nil {
		t.Errorf("what was there is not aside: %v", err)
	}
}

const groups = `# kept in git
hosts:
  - {id: a-h1, driver: embedded, probe: "127.0.0.1:7101"}
  - {id: a-h2, driver: embedded, probe: "127.0.0.1:7102"} # the old one
groups:
  - id: erp
    home: a
    targets: [{site: b, mode: sync}]
    volumes: [{id: data, size: 64MiB}]
    vms:
      - id: erp-db
        volumes: [data]
        port: 8080
        sites:
          a: {address: 127.0.11.10, hosts: [a-h1, a-h2]}
          b: {address: 127.0.12.10, hosts: [b-h1]}
plans:
  - id: main
    groups: [{group: erp, priority: 1}]
`

func TestGroupsOfAFileAreTakenWithTheirHostsAndComments(t *testing.T) {
	s := trio{root: t.TempDir()}
	file := s.file("groups.yaml")
	if err := os.WriteFile(file, []byte(groups), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options(s.root, "a")
	o.Groups = file
	initSite(t, o) // speaks of b, which is not there yet
	initSite(t, options(s.root, "b", s.file("a", "a.card.json")))
	join(t, s.file("a"), s.file("b", "b.card.json"))
	cfg, err := config.Load(s.file("a", "config", "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.Hosts) != 2 || len(cfg.Groups) != 1 || len(cfg.Plans) != 1 {
		t.Errorf("%d hosts, %d groups, %d plans", len(cfg.Hosts), len(cfg.Groups), len(cfg.Plans))
	}
	if raw, _ := os.ReadFile(s.file("a", "config", "site.yaml")); !strings.Contains(string(raw), "# the old one") {
		t.Error("the file's comments are lost")
	}
	if _, err := identity.Open(cfg.Security.Secrets, "host-a-h2"); err != nil {
		t.Error(err)
	}
}

func TestADataSiteTakesLinesWhereOthersReachIt(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*sitefolder.Options)
		want config.Replication
	}{
		"containers":          {func(*sitefolder.Options) {}, config.Replication{Listen: "0.0.0.0:4231", Address: "192.0.2.1:4231"}},
		"containers, a name":  {func(o *sitefolder.Options) { o.Address = "nats.a.example.org:14222" }, config.Replication{Listen: "0.0.0.0:4231", Address: "nats.a.example.org:4231"}},
		"containers, IPv6":    {func(o *sitefolder.Options) { o.Address = "[2001:db8::1]:4222" }, config.Replication{Listen: "0.0.0.0:4231", Address: "[2001:db8::1]:4231"}},
		"embedded":            {func(o *sitefolder.Options) { o.Embedded = true }, config.Replication{Listen: "192.0.2.1:4231", Address: "192.0.2.1:4231"}},
		"embedded, elsewhere": {func(o *sitefolder.Options) { o.Embedded, o.Listen = true, "0.0.0.0" }, config.Replication{Listen: "0.0.0.0:4231", Address: "192.0.2.1:4231"}},
		"embedded, loopback":  {func(o *sitefolder.Options) { o.Embedded, o.Address = true, "127.0.0.1:14222" }, config.Replication{}},
		"embedded, localhost": {func(o *sitefolder.Options) { o.Embedded, o.Address = true, "localhost" }, config.Replication{}},
		"a witness":           {func(o *sitefolder.Options) { o.Role = domain.SiteWitness }, config.Replication{}},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t.TempDir(), "a")
			c.set(&o)
			initSite(t, o)
			cfg, err := config.Load(filepath.Join(o.Dir, "config", "site.yaml"))
			if err != nil || cfg.Replication != c.want {
				t.Errorf("%+v %v", cfg.Replication, err)
			}
		})
	}
}

func TestEmbeddedSiteHasItsServerInsideAndNoComposeFile(t *testing.T) {
	dir := t.TempDir()
	o := options(dir, "a")
	o.Embedded, o.Address = true, "127.0.0.1:14222"
	initSite(t, o)
	cfg, err := config.Load(filepath.Join(o.Dir, "config", "site.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.NATS.Listen != "127.0.0.1:14222" || cfg.NATS.Local != "tls://127.0.0.1:14222" || cfg.NATS.Conf != filepath.Join(o.Dir, "config", "nats.conf") {
		t.Errorf("nats is %+v", cfg.NATS)
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "docker-compose.yml")); !os.IsNotExist(err) {
		t.Errorf("a compose file: %v", err)
	}
	conf, err := os.ReadFile(cfg.NATS.Conf)
	if err != nil || !strings.Contains(string(conf), filepath.Join(o.Dir, "secrets", "nats", "server.key")) {
		t.Errorf("nats.conf: %v\n%s", err, conf)
	}
}
