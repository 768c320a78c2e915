//go:build e2e_compose

package compose

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"text/template"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Names and addresses of the installation. Everything that docker makes has the prefix, so that it is found and removed.
const (
	prefix  = "hf-e2e-"
	watchIn = prefix + "watch" // the test's own way to every site's server
	zone    = "e2e.holdfast.test"
	vmName  = "erp." + zone
	vmPort  = 8080
	group   = domain.GroupID("erp")
	vm      = domain.VMID("erp-db")
	plan    = "main"
)

// place is one site: a compose project, its folder and its networks.
type place struct {
	id   domain.SiteID
	role domain.SiteRole
	net  int // third part of its addresses
	dir  string
	wan  [2]string // networks of the pairs it belongs to
}

func (p *place) project() string          { return prefix + string(p.id) }
func (p *place) siteNetwork() string      { return p.project() + "_site" }
func (p *place) subnet() string           { return fmt.Sprintf("10.213.%d", p.net) }
func (p *place) at(host int) string       { return fmt.Sprintf("%s.%d", p.subnet(), host) }
func (p *place) loopback() string         { return fmt.Sprintf("127.213.0.%d", p.net) }
func (p *place) host() domain.HostID      { return domain.HostID(string(p.id) + "-h1") }
func (p *place) authority() string        { return p.at(12) + ":5353" }
func (p *place) data() bool               { return p.role == domain.SiteData }
func (p *place) files(n ...string) string { return filepath.Join(append([]string{p.dir}, n...)...) }

// wanOf is the network between two sites.
func wanOf(a, b domain.SiteID) string {
	if a > b {
		a, b = b, a
	}
	return prefix + "wan-" + string(a) + string(b)
}

// bridgeOf is the name of a network's bridge on this machine, of at most 15 letters.
func bridgeOf(network string) string {
	return "hfe2e-" + strings.TrimPrefix(strings.TrimPrefix(network, prefix), "wan-")
}

func newPlaces(dir string) map[domain.SiteID]*place {
	out := map[domain.SiteID]*place{}
	for i, id := range []domain.SiteID{"a", "b", "w"} {
		p := &place{id: id, role: domain.SiteData, net: i + 1, dir: filepath.Join(dir, string(id))}
		if id == "w" {
			p.role = domain.SiteWitness
		}
		n := 0
		for _, other := range []domain.SiteID{"a", "b", "w"} {
			if other != id {
				p.wan[n] = wanOf(id, other)
				n++
			}
		}
		out[id] = p
	}
	return out
}

// protected is what every site's file says of the group and its plan.
var protected = template.Must(template.New("groups").Parse(`groups:
  - id: erp
    tier: 1
    home: a
    targets: [{site: b, mode: sync}]
    durability: strict
    on_target_loss: degrade
    failover: auto
    hold_down: 1s
    volumes:
      - {id: data, size: 256MiB}
      - {id: wal, size: 256MiB}
    vms:
      - id: erp-db
        volumes: [data, wal]
        priority: 1
        dns: [{{.Name}}]
        port: {{.Port}}
        sites:
          a: {address: {{.A}}, hosts: [a-h1]}
          b: {address: {{.B}}, hosts: [b-h1]}
plans:
  - id: main
    groups:
      - {group: erp, priority: 1}
`))

// installation makes the folders of the three sites as their owners would, each on its own: init, exchange of public files,
// join. Then it edits what a machine with three sites on it needs.
type installation struct {
	t      *testing.T
	places map[domain.SiteID]*place
	dir    string
	uid    string
}

func (in *installation) make(ctx context.Context) error {
	var b bytes.Buffer
	data := map[string]any{"Name": vmName, "Port": vmPort, "A": in.places["a"].at(20), "B": in.places["b"].at(20)}
	if err := protected.Execute(&b, data); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(in.dir, "groups.yaml"), b.Bytes(), 0o644); err != nil {
		return err
	}
	if err := in.own(); err != nil {
		return err
	}
	for _, args := range [][]string{
		in.initArgs("a"),
		in.initArgs("b", "--peer", "/work/a/a.card.json"),
		in.initArgs("w", "--peer", "/work/a/a.card.json"),
		{"site", "join", "--dir", "/work/a", "/work/b/b.card.json", "/work/w/w.card.json"},
		{"site", "join", "--dir", "/work/b", "/work/a/installation.json"},
		{"site", "join", "--dir", "/work/w", "/work/a/installation.json"},
	} {
		if err := in.holdfast(ctx, args...); err != nil {
			return err
		}
	}
	for _, p := range in.places {
		if err := in.edit(p); err != nil {
			return err
		}
	}
	return nil
}

func (in *installation) initArgs(id domain.SiteID, more ...string) []string {
	p := in.places[id]
	args := []string{"site", "init", "--dir", "/work/" + string(id), "--name", string(id), "--role", string(p.role),
		"--address", "nats-" + string(id), "--groups", "/work/groups.yaml"}
	if p.data() {
		args = append(args, "--zone", zone, "--host-id", string(p.host()))
	}
	return append(args, more...)
}

// holdfast runs the product's image as the folders' owner.
func (in *installation) holdfast(ctx context.Context, args ...string) error {
	run := []string{"run", "--rm", "--name", prefix + "init", "--network", "none", "--user", in.uid, "--read-only", "--cap-drop", "ALL",
		"--volume", in.dir + ":/work", "--workdir", "/work", image()}
	out, err := docker(ctx, append(run, args...)...)
	if err != nil {
		return err
	}
	in.t.Logf("holdfast %s\n%s", strings.Join(args, " "), out)
	return nil
}

// own gives the folder to the user that the containers run as.
func (in *installation) own() error {
	return filepath.WalkDir(in.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, ownerID, ownerID)
	})
}

// edit fits a site's configuration to a machine that has all three: addresses that the test and the VM's user reach.
func (in *installation) edit(p *place) error {
	path := p.files("config", "site.yaml")
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(raw)
	change := func(pattern, with string) {
		re := regexp.MustCompile(`(?m)` + pattern)
		if !re.MatchString(text) {
			err = fmt.Errorf("edit %s: nothing in it is like %s:\n%s", path, pattern, text)
			return
		}
		text = re.ReplaceAllString(text, with)
	}
	change(`^# tracing:\n#   otlp: .*$`, "tracing:\n  otlp: jaeger:4317")
	if p.data() {
		change(`listen: replicator:3260`, "listen: 0.0.0.0:3260\n  portal: "+p.at(11)+":3260")
		change(`address: "nats-`+string(p.id)+`:4231"`, `address: "line-`+string(p.id)+`:4231"`) // a container of its own
		change(`listen: dns:5353\n  ttl: 5s`, "listen: "+p.authority()+"\n  ttl: 1s")
	}
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o600)
}
