package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/config"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

const sample = "../../deploy/examples/site-a.yaml"

func TestSampleFileIsValid(t *testing.T) {
	cfg, err := config.Load(sample)
	if err != nil {
		t.Fatal(err)
	}
	g := cfg.Groups[0].Domain()
	if g.Volumes[0].SizeBytes != 64<<20 || g.HoldDown != 30*time.Second || g.ModeTo("b", "a") != domain.ModeSync {
		t.Fatalf("group decoded as %+v", g)
	}
	if cfg.Groups[0].VMs[0].Sites["b"].Address != "127.0.12.10" {
		t.Fatalf("placements decoded as %+v", cfg.Groups[0].VMs[0].Sites)
	}
	if !strings.HasSuffix(cfg.DataDir, "/deploy/examples/state-a") {
		t.Fatalf("data_dir %s is not taken from the file's folder", cfg.DataDir)
	}
}

// Each case breaks the sample in one place and names what must be told: the line of the break, the field, the mend.
func TestEachKindOfMistakeIsToldWithLineFieldAndMend(t *testing.T) {
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, old, new, field, mend string }{
		{"unknown key", "timing: default", "timeing: default", "timeing", `did you mean "timing"`},
		{"unknown nested key", "{id: data, size: 64MiB}", "{id: data, sise: 64MiB}", "groups[0].volumes[0].sise", `did you mean "size"`},
		{"size without unit", "size: 64MiB", "size: 64", "groups[0].volumes[0].size", "write a whole number with its unit"},
		{"wrong size unit", "size: 256MiB", "size: 256MB", "journal.size", "4KiB, 64MiB"},
		{"duration without unit", "hold_down: 30s", "hold_down: 30", "groups[0].hold_down", "with its unit"},
		{"duplicate site", "{id: b, index: 2,", "{id: a, index: 2,", "sites[1].id", "another name"},
		{"duplicate index", "{id: b, index: 2,", "{id: b, index: 1,", "sites[1].index", "number of its own"},
		{"duplicate host", "{id: a-h2,", "{id: a-h1,", "hosts[1].id", "another name"},
		{"host named as a service", "{id: a-h1,", "{id: quorum,", "hosts[0].id", "another name"},
		{"duplicate key", "timing: default", "site: a", "site", "remove one; the first is on line 3"},
		{"bad name", "id: erp\n", "id: ERP_1\n", "groups[0].id", "use 1 to 32 of a-z"},
		{"bad address", `nats: "nats://127.0.0.1:4223"`, `nats: "127.0.0.1:4223"`, "sites[1].nats", "nats://host:port"},
		{"bad port", "listen: 127.0.0.1:3260", "listen: 127.0.0.1:99999", "iscsi.listen", "port of 0 to 65535"},
		{"bad portal", "listen: 127.0.0.1:3260", "portal: 0.0.0.0:3260", "iscsi.portal", "at which VM hosts reach"},
		{"chap without a secret", "listen: 127.0.0.1:3260", "chap: {user: main-a}", "iscsi.chap.secret_file", "mode 0600"},
		{"chap without a user", "listen: 127.0.0.1:3260", "chap: {secret_file: s}", "iscsi.chap.user", "the name that goes with"},
		{"chap of an odd user", "listen: 127.0.0.1:3260", "chap: {user: 'a b', secret_file: s}", "iscsi.chap.user", "without spaces"},
		{"mutual without a secret", "listen: 127.0.0.1:3260", "chap: {user: u, secret_file: s, mutual_user: t}", "iscsi.chap.mutual_secret_file", "mode 0600"},
		{"mutual alone", "listen: 127.0.0.1:3260", "chap: {mutual_user: t, mutual_secret_file: m}", "iscsi.chap.mutual_user", "secret_file as well"},
		{"lines on a bad port", "replication: {}", "replication: {listen: '127.0.0.1:99999'}", "replication.listen", "port of 0 to 65535"},
		{"lines that nobody listens for", "replication: {}", "replication: {address: 'a.example.org:4231'}", "replication.listen", "where the replicators of other sites connect"},
		{"lines for everybody without credentials", "replication: {}", "replication: {listen: '192.0.2.1:4231'}", "replication.listen", "holdfast site init"},
		{"lines everywhere without an address", "replication: {}", "replication: {listen: '0.0.0.0:4231'}", "replication.address", "at which other sites reach"},
		{"lines on no host without an address", "replication: {}", "replication: {listen: ':4231'}", "replication.address", "at which other sites reach"},
		{"lines to a bad address", "replication: {}", "replication: {listen: '127.0.0.1:4231', address: a.example.org}", "replication.address", "write host:port"},
		{"lines to everywhere", "replication: {}", "replication: {listen: '127.0.0.1:4231', address: '[::]:4231'}", "replication.address", "at which other sites reach"},
		{"lines to no port", "replication: {}", "replication: {listen: '127.0.0.1:4231', address: 'a.example.org:0'}", "replication.address", "at which other sites reach"},
		{"lines on a port that is taken", "replication: {}", "replication: {listen: '127.0.0.1:3260'}", "replication.listen", "port of its own"},
		{"unknown mode", "mode: sync", "mode: synchronous", "groups[0].targets[0].mode", "sync or async or none"},
		{"target is witness", "targets: [{site: b,", "targets: [{site: w,", "groups[0].targets[0].site", "role is data"},
		{"rate without a unit", "mode: sync}", "mode: async, transport: {rate_limit: 10}}", "groups[0].targets[0].transport.rate_limit", "512KiB, 10MiB"},
		{"rate too low", "mode: sync}", "mode: async, transport: {rate_limit: 1KiB}}", "groups[0].targets[0].transport.rate_limit", "at least 16KiB"},
		{"window without a unit", "mode: sync}", "mode: async, transport: {window: 1000000}}", "groups[0].targets[0].transport.window", "512KiB, 4MiB"},
		{"window too small for a bundle", "mode: sync}", "mode: async, transport: {window: 128KiB}}", "groups[0].targets[0].transport.window", "give 256KiB to 16MiB"},
		{"window that no pipe holds", "mode: sync}", "mode: async, transport: {window: 32MiB}}", "groups[0].targets[0].transport.window", "give 256KiB to 16MiB"},
		{"no time of day", "mode: sync}", "mode: async, transport: {schedule: [{from: 8am, to: 18:00, rate_limit: 1MiB}]}}", "groups[0].targets[0].transport.schedule[0].from", "00:00 to 24:00"},
		{"no day", "mode: sync}", "mode: async, transport: {schedule: [{days: [mon, Tuesday], from: 08:00, to: 18:00, rate_limit: 1MiB}]}}", "groups[0].targets[0].transport.schedule[0].days[1]", "mon, tue"},
		{"a link to itself", "links: []", "links: [{to: a, rate_limit: 1MiB}]", "links[0].to", "name the data site"},
		{"a link to a witness", "links: []", "links: [{to: w, rate_limit: 1MiB}]", "links[0].to", "name the data site"},
		{"two links to a site", "links: []", "links: [{to: b, rate_limit: 1MiB}, {to: b, rate_limit: 2MiB}]", "links[1].to", "one link"},
		{"a link without a rate", "links: []", "links: [{to: b}]", "links[0].rate_limit", "leave the link out"},
		{"a link's rate too low", "links: []", "links: [{to: b, rate_limit: 1KiB}]", "links[0].rate_limit", "at least 16KiB"},
		{"a way round over oneself", `4223", dns: "127.0.0.1:5302"}`, `4223", dns: "127.0.0.1:5302", via: a}`, "sites[1].via", "one that relays to it"},
		{"a way round over nobody", `4223", dns: "127.0.0.1:5302"}`, `4223", dns: "127.0.0.1:5302", via: x}`, "sites[1].via", "one that relays to it"},
		{"a way round to oneself", `4222", dns: "127.0.0.1:5301"}`, `4222", dns: "127.0.0.1:5301", via: b}`, "sites[0].via", "remove it"},
		{"a way round without a relay", `4223", dns: "127.0.0.1:5302"}`, `4223", dns: "127.0.0.1:5302", via: w}`, "sites[1].via", "give its entry relay: host:port"},
		{"a relay's bad address", `4223", dns: "127.0.0.1:5302"}`, `4223", dns: "127.0.0.1:5302", relay: "127.0.0.1"}`, "sites[1].relay", "write host:port"},
		{"a relay to nobody", "links: []", "relay: {listen: '127.0.0.1:4230'}", "relay.to", "name the sites"},
		{"a relay that does not listen", "links: []", "relay: {to: [b]}", "relay.listen", "host:port where other sites connect"},
		{"a relay to oneself", "links: []", "relay: {listen: '127.0.0.1:4230', to: [a]}", "relay.to[0]", "a site of sites"},
		{"a relay to a site twice", "links: []", "relay: {listen: '127.0.0.1:4230', to: [w, w]}", "relay.to[1]", "each site once"},
		{"a relay for everybody without credentials", "links: []", "relay: {listen: '0.0.0.0:4230', to: [w]}", "relay.listen", "holdfast site init"},
		{"a relay on a port that is taken", "links: []", "relay: {listen: '127.0.0.1:4222', to: [w]}", "relay.listen", "port of its own"},
		{"a relay for no connection", "links: []", "relay: {listen: '127.0.0.1:4230', to: [w], connections_per_peer: 0}", "relay.connections_per_peer", "128 are enough"},
		{"unknown compression", "mode: sync}", "mode: async, transport: {compression: zip}}", "groups[0].targets[0].transport.compression", "none or s2"},
		{"volume of no group", "volumes: [data]", "volumes: [dada]", "groups[0].vms[0].volumes[0]", "one of the group's volumes"},
		{"vm without placement", "          b: {address: 127.0.12.10, hosts: [b-h1, b-h2]}\n", "", "groups[0].vms[0].sites", "each of the group's sites"},
		{"bad vm address", "address: 127.0.12.10", "address: 127.0.12.10/24", "groups[0].vms[0].sites[b].address", "without a mask"},
		{"number wanted", "tier: 1", "tier: one", "groups[0].tier", "a whole number"},
		{"list wanted", "targets: [{site: b, mode: sync}]", "targets: b", "groups[0].targets", "'- '"},
		{"plan names no group", "{group: erp,", "{group: crm,", "plans[0].groups[0].group", "name a group"},
		{"model unknown", "model: node_and_share_majority", "model: best", "quorum.model", "node_majority or"},
		{"share in node majority", "model: node_and_share_majority", "share: /mnt/vote\n  model: node_majority", "quorum.share", "remove it"},
		{"witness service beside a site", "  voters: #", "  witness: {url: 'https://w.example:7443', ca: w.pem}\n  voters: #", "quorum.witness", "keep one of the two"},
		{"witness service of an odd address", "  voters: #", "  witness: {url: w.example, ca: w.pem}\n  voters: #", "quorum.witness.url", "https://host:port"},
		{"witness service without its certificate", "  voters: #", "  witness: {url: 'https://w.example:7443'}\n  voters: #", "quorum.witness.ca", "witness.pem"},
		{"object in node majority", "model: node_and_share_majority", "object: {endpoint: https://s3.example, bucket: v, credentials: k}\n  model: node_majority", "quorum.object", "remove it"},
		{"object beside a witness", "  voters: #", "  object: {endpoint: https://s3.example, bucket: v, credentials: k}\n  voters: #", "quorum.object", "keep one of the two"},
		{"object beside a share", "  voters: #", "  object: {endpoint: https://s3.example, bucket: v, credentials: k}\n  share: /mnt/vote\n  voters: #", "quorum.object", "keep one of the two"},
		{"object without a key", "  voters: #", "  object: {endpoint: https://s3.example, bucket: v}\n  voters: #", "quorum.object.credentials", "file of the access key"},
		{"object of an odd endpoint", "  voters: #", "  object: {endpoint: s3.example, bucket: v, credentials: k}\n  voters: #", "quorum.object.endpoint", "https://host"},
		{"local without a share", "  voters: #", "  share_local: true\n  voters: #", "quorum.share_local", "quorum.share"},
		{"share beside a witness", "  voters: #", "  share: /mnt/vote\n  voters: #", "quorum.share", "keep one of the two"},
		{"disk missing", "model: node_and_share_majority", "model: disk_only", "quorum.disk", "iscsi://host:port/target/lun"},
		{"disk in a model without", "  voters: #", "  disk: iscsi://10.0.0.5/iqn.2026-11.org.example:vote/0\n  voters: #", "quorum.disk", "node_and_disk_majority or disk_only"},
		{"no disk's url", "model: node_and_share_majority", "disk: /dev/sdb\n  model: node_and_disk_majority", "quorum.disk", "iscsi://host:port/target/lun"},
		{"weight of nobody", "{id: a, on: [a-power]}", "{id: c, weight: 1}", "quorum.voters[0].id", "name one of [a b w]"},
		{"a voter twice", "{id: b, on: [b-power]}", "{id: a, weight: 1}", "quorum.voters[1].id", "another name"},
		{"weight too high", "{id: a, on: [a-power]}", "{id: a, weight: 101}", "quorum.voters[0].weight", "0 to 100"},
		{"negative weight", "{id: a, on: [a-power]}", "{id: a, weight: -1}", "quorum.voters[0].weight", "0 to 100"},
		{"a node elsewhere", "{id: a, on: [a-power]}", "{id: a, site: b}", "quorum.voters[0].site", "remove it"},
		{"unknown replication", "{id: a, on: [a-power]}", "{id: a, replicated: maybe}", "quorum.voters[0].replicated", "none or sync or async"},
		{"support by no name", "support: []", "support: [DC_1]", "support[0]", "use 1 to 32 of a-z"},
		{"no recovery time", "rto: 15m", "rto: 1ms", "groups[0].rto", "at least 1s"},
		{"site named as a voter", "{id: b, index: 2,", "{id: share, index: 2,", "sites[1].id", "another name"},
		{"zone missing", "  zone: dr.example.org\n", "", "dns.zone", "name the zone"},
		{"small journal", "size: 256MiB", "size: 4MiB", "journal.size", "at least 16MiB"},
		{"a small reserve", "checkpoint_reserve: 0B", "checkpoint_reserve: 1MiB", "copies.checkpoint_reserve", "at least 16MiB"},
		{"a scrub too often", "scrub_every: 168h", "scrub_every: 5s", "copies.scrub_every", "at least 1m"},
		{"no data dir", "data_dir: ./state-a", "data_dir:", "data_dir", "name the folder"},
		{"trace pages", "timing: default", "tracing: {ui: \"jaeger:16686\"}", "tracing.ui", "write http://host:16686"},
		{"two kinds of collector", "timing: default", "tracing: {ca: ca.pem, insecure: true}", "tracing.insecure", "leave one"},
		{"negative tier", "tier: 1", "tier: -1", "groups[0].tier", "1 for what comes back first"},
		{"two targets at one site", "targets: [{site: b, mode: sync}]", "targets: [{site: b, mode: sync}, {site: b, mode: async}]", "groups[0].targets[1].site", "once"},
		{"a volume twice", "volumes: [data]", "volumes: [data, data]", "groups[0].vms[0].volumes[1]", "to one VM"},
		{"host that is none", "a: {address: 127.0.11.10, hosts: [a-h1, a-h2]}", "a: {address: 127.0.11.10, hosts: [a-h1, a-h3]}", "groups[0].vms[0].sites[a].hosts[1]", "name one of hosts"},
		{"a host twice", "a: {address: 127.0.11.10, hosts: [a-h1, a-h2]}", "a: {address: 127.0.11.10, hosts: [a-h1, a-h1]}", "groups[0].vms[0].sites[a].hosts[1]", "once"},
		{"placement without a copy", "          a: {address: 127.0.11.10,", "          w: {address: 127.0.13.10, hosts: [w-h1]}\n          a: {address: 127.0.11.10,", "groups[0].vms[0].sites[w]", "among the group's targets"},
		{"vm depends on nobody", "        port: 8080", "        depends_on: [crm]\n        port: 8080", "groups[0].vms[0].depends_on[0]", "another VM"},
		{"name outside the zone", "dns: [erp.dr.example.org]", "dns: [erp.example.com]", "groups[0].vms[0].dns[0]", "ends in .dr.example.org"},
		{"no host name", "dns: [erp.dr.example.org]", "dns: ['e rp.dr.example.org']", "groups[0].vms[0].dns[0]", "labels of 1 to 63"},
		{"no zone", "zone: dr.example.org", "zone: '..'", "dns.zone", "labels of 1 to 63"},
		{"no ttl", "ttl: 5s", "ttl: 1ms", "dns.ttl", "whole seconds"},
		{"two parts at one port", "listen: 127.0.0.1:3260", "listen: 127.0.0.1:4222", "iscsi.listen", "a port of its own"},
		{"a group twice in a plan", "    groups:\n      - {group: erp, priority: 1}", "    groups: [{group: erp, priority: 1}, {group: erp, priority: 2}]", "plans[0].groups[1].group", "once"},
		{"a second document", "timing: default", "---\ntiming: default", "", "one site's configuration in a file"},
		{"syntax", "  listen: 127.0.0.1:3260", "  listen: [127.0.0.1:3260", "", "mend the syntax"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := string(data)
			at := strings.Index(text, c.old)
			if at < 0 {
				t.Fatalf("the sample has no %q", c.old)
			}
			_, err := config.Parse("site-a.yaml", []byte(strings.Replace(text, c.old, c.new, 1)))
			var problems config.Problems
			if !errors.As(err, &problems) || !errors.Is(err, domain.ErrInvalid) {
				t.Fatalf("want problems, got %v", err)
			}
			for _, p := range problems {
				if p.Field != c.field || !strings.Contains(p.Mend, c.mend) {
					continue
				}
				// Something left out is told at what encloses it; everything else exactly where it stands.
				if line := strings.Count(text[:at], "\n") + 1; p.Line == 0 || (p.Line != line && c.new != "" && c.name != "syntax") {
					t.Fatalf("told on line %d, stands on %d: %v", p.Line, line, err)
				}
				return
			}
			t.Fatalf("want field %q and mend %q, got:\n%v", c.field, c.mend, err)
		})
	}
}

func TestLinesAreOffUnlessTheFileSaysWhere(t *testing.T) {
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	for with, want := range map[string]config.Replication{
		"replication: {}":                         {},
		"replication: {listen: '127.0.0.1:4231'}": {Listen: "127.0.0.1:4231"},
		"replication: {listen: '127.0.0.1:0', address: 'a.example.org:14231'}":                            {Listen: "127.0.0.1:0", Address: "a.example.org:14231"},
		"security: {secrets: secrets}\nreplication: {listen: '[::]:4231', address: 'a.example.org:4231'}": {Listen: "[::]:4231", Address: "a.example.org:4231"},
	} {
		text := strings.Replace(string(data), "replication: {}", with, 1)
		if strings.Contains(with, "security") {
			text = strings.NewReplacer("nats://", "tls://", "  listen: 127.0.0.1:4222", "  conf: nats.conf\n  listen: 127.0.0.1:4222").Replace(text)
		}
		if cfg, err := config.Parse("site-a.yaml", []byte(text)); err != nil || cfg.Replication != want {
			t.Errorf("%s: %+v %v", with, cfg.Replication, err)
		}
	}
}

func TestHealingByTheScheduleAsksForASchedule(t *testing.T) {
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	heals := strings.Replace(string(data), "scrub_heal: false", "scrub_heal: true", 1)
	if cfg, err := config.Parse("site-a.yaml", []byte(heals)); err != nil || !cfg.Copies.ScrubHeal {
		t.Fatalf("%v, %+v", err, cfg.Copies)
	}
	_, err = config.Parse("site-a.yaml", []byte(strings.Replace(heals, "scrub_every: 168h", "scrub_every: 0s", 1)))
	if err == nil || !strings.Contains(err.Error(), "copies.scrub_heal") {
		t.Errorf("healing without a schedule: %v", err)
	}
}

// The four models, as the sample is changed into each of them.
func TestEveryModelCanBeConfigured(t *testing.T) {
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	const disk = "iscsi://10.0.0.5/iqn.2026-11.org.example:vote/0"
	for name, quorum := range map[string]string{
		"node majority":               "model: node_majority",
		"weights":                     "model: node_majority\n  voters: [{id: a, weight: 3}, {id: b, weight: 2}, {id: w, weight: 0}]",
		"node and disk majority":      "model: node_and_disk_majority\n  disk: " + disk + "\n  voters: [{id: disk, site: a, replicated: none}]",
		"disk only":                   "model: disk_only\n  disk: " + disk,
		"node and file-share witness": "model: node_and_share_majority",
	} {
		before, rest, _ := strings.Cut(string(data), "quorum:\n")
		_, after, _ := strings.Cut(rest, "\n\n")
		if _, err := config.Parse("site-a.yaml", []byte(before+"quorum:\n  "+quorum+"\n\n"+after)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, voters := range map[string]string{
		"nobody": "model: node_majority\n  voters: [{id: a, weight: 0}, {id: b, weight: 0}, {id: w, weight: 0}]",
		"disk":   "model: disk_only\n  disk: " + disk + "\n  voters: [{id: disk, weight: 0}]",
	} {
		before, rest, _ := strings.Cut(string(data), "quorum:\n")
		_, after, _ := strings.Cut(rest, "\n\n")
		if _, err := config.Parse("site-a.yaml", []byte(before+"quorum:\n  "+voters+"\n\n"+after)); err == nil || !strings.Contains(err.Error(), "nobody has a vote") {
			t.Errorf("%s has a vote: %v", name, err)
		}
	}
}

func TestCHAPFilesAreTakenFromTheFilesFolderAndMutualIsRefusedForQEMU(t *testing.T) {
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), "listen: 127.0.0.1:3260", "listen: 127.0.0.1:3260\n  chap: {user: u, secret_file: ../s, mutual_user: t, mutual_secret_file: /m}", 1)
	path := filepath.Join(t.TempDir(), "config", "site.yaml")
	if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c := cfg.ISCSI.CHAP; c.SecretFile != filepath.Join(filepath.Dir(filepath.Dir(path)), "s") || c.MutualSecretFile != "/m" {
		t.Errorf("%+v", c)
	}
	_, err = config.Parse("site-a.yaml", []byte(strings.Replace(text, "driver: embedded", "driver: qemu", 1)))
	if err == nil || !strings.Contains(err.Error(), "hosts[0].driver") || !strings.Contains(err.Error(), "iscsi.chap.mutual_user") {
		t.Errorf("mutual CHAP with a QEMU host: %v", err)
	}
}

func TestEveryMistakeIsToldAtOnceInTheOrderOfLines(t *testing.T) {
	_, err := config.Parse("x.yaml", []byte("site: A\ntimings: fast\nnats: {listen: 1}\n"))
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("got %v", err)
	}
	if len(problems) != 1 || problems[0].Line != 2 {
		t.Fatalf("unknown keys come first, alone: got %v", err)
	}
	_, err = config.Parse("x.yaml", []byte("site: A\nnats: {listen: 1}\n"))
	if !errors.As(err, &problems) || len(problems) < 4 {
		t.Fatalf("want every mistake, got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	data, err := os.ReadFile(sample)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("groups: [{}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := config.Parse("f", data); err != nil && err.Error() == "" {
			t.Fatal("an error without a text")
		}
	})
}

func TestCirclesOfDependenciesAreTold(t *testing.T) {
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), "\nplans:", `
  - id: web
    home: a
    targets: [{site: b, mode: async}]
    volumes: [{id: data, size: 64MiB}]
    vms:
      - {id: web-1, volumes: [data], port: 8081, depends_on: [erp-db], sites: {a: {address: 127.0.11.11, hosts: [a-h1]}, b: {address: 127.0.12.11, hosts: [b-h1]}}}
plans:`, 1)
	if _, err := config.Parse("fine.yaml", []byte(text)); err != nil {
		t.Fatal(err)
	}
	text = strings.Replace(text, "        port: 8080", "        depends_on: [web-1]\n        port: 8080", 1)
	text = strings.Replace(text, "{group: erp, priority: 1}", "{group: erp, priority: 1, depends_on: [web]}\n      - {group: web, priority: 2}", 1)
	_, err = config.Parse("circle.yaml", []byte(text))
	if !errors.Is(err, domain.ErrInvalid) {
		t.Fatal(err)
	}
	for _, want := range []string{`"erp-db" waits for itself`, `"web-1" waits for itself`, `plans[0].groups[0].group: "erp" waits for itself`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not told:\n%v", want, err)
		}
	}
}

func TestEmptyFileIsToldAsEmpty(t *testing.T) {
	if _, err := config.Parse("empty.yaml", nil); err == nil || !strings.Contains(err.Error(), "empty.yaml: empty") {
		t.Error(err)
	}
}

func TestAFileWithoutEndIsNoConfiguration(t *testing.T) {
	_, err := config.Load("/dev/zero")
	if !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), "larger than 16 MiB") {
		t.Fatalf("got %v", err)
	}
}

func TestTransportOfATargetIsRead(t *testing.T) {
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "site.yaml")
	text := strings.Replace(string(data), "links: []", "links: [{to: b, rate_limit: 20MiB, schedule: [{from: 22:00, to: 06:00, rate_limit: 0}]}]", 1)
	text = strings.Replace(text, "mode: sync}", `mode: async, transport: {rate_limit: 10MiB, compression: s2, window: 4MiB,
        schedule: [{days: [mon, fri], from: 08:00, to: "18:00", rate_limit: 512KiB}, {from: 22:00, to: 06:00, rate_limit: 0}]}}`, 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if l := cfg.Links; len(l) != 1 || l[0].To != "b" || l[0].Transport().Rate(time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)) != 20<<20 || l[0].Transport().Rate(time.Date(2026, 11, 2, 23, 0, 0, 0, time.UTC)) != 0 {
		t.Errorf("links read as %+v", l)
	}
	tr := cfg.Groups[0].Domain().TransportTo("a", "b")
	if tr.RateLimit != 10<<20 || tr.Compression != domain.CompressionS2 || tr.Window != 4<<20 || len(tr.Schedule) != 2 || tr.Schedule[0].RateLimit != 512<<10 || tr.Schedule[1].RateLimit != 0 {
		t.Errorf("read as %+v", tr)
	}
	if got := tr.Rate(time.Date(2026, 11, 2, 9, 0, 0, 0, time.UTC)); got != 512<<10 {
		t.Errorf("on Monday at nine %d", got)
	}
}

// TestAWayRoundLeadsOneStep: a site in between is reached directly, and relays to sites that it reaches directly.
func TestAWayRoundLeadsOneStep(t *testing.T) {
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(`4223", dns: "127.0.0.1:5302"}`, `4223", relay: "127.0.0.1:4230"}`, `nats: "nats://127.0.0.1:4224"}`, `nats: "nats://127.0.0.1:4224", via: b}`).Replace(string(data))
	cfg, err := config.Parse("site-a.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Relays(); len(got) != 1 || got["w"] != "127.0.0.1:4230" {
		t.Fatalf("relays are %v", got)
	}
	for change, want := range map[string]string{
		`4223", relay: "127.0.0.1:4230", via: w}`: "sites[1].via: site w is itself reached via site b",
		`4223", relay: "127.0.0.1:4230"}`:         "relay.to[0]: this site reaches site w via site b",
	} {
		text := strings.NewReplacer(`4223", relay: "127.0.0.1:4230"}`, change, "links: []", "relay: {listen: '127.0.0.1:4231', to: [w]}").Replace(text)
		if _, err := config.Parse("site-a.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", change, err)
		}
	}
	cfg, err = config.Parse("site-a.yaml", []byte(strings.Replace(string(data), "links: []", "relay: {listen: '127.0.0.1:4230', to: [b, w]}", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.RelayTo(); len(got) != 2 || got["w"] != "127.0.0.1:4224" || cfg.Relay.ConnectionsPerPeer != 128 {
		t.Fatalf("it relays to %v, %d connections", got, cfg.Relay.ConnectionsPerPeer)
	}
}
