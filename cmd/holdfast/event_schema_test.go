package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/event/describe"
	"github.com/holdfast-dr/holdfast/pkg/natsd"
)

// published is one message of a site's stream of events, as an outsider would have got it.
type published struct {
	site, subject string
	header        map[string][]string
	data          []byte
}

// eventSchemas are the schemas of every event, by type.
func eventSchemas(t *testing.T) map[string]*jsonschema.Schema {
	t.Helper()
	files, err := describe.Files()
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for path, data := range files {
		if !strings.HasPrefix(path, "schemas/") {
			continue
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource("file:///"+path, doc); err != nil {
			t.Fatal(err)
		}
	}
	out := map[string]*jsonschema.Schema{}
	for _, d := range event.Catalogue() {
		if out[d.Type()], err = c.Compile("file:///schemas/" + describe.SchemaFile(d)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// judgeEvent holds one message to the catalogue; the error says what is wrong with it.
func judgeEvent(schemas map[string]*jsonschema.Schema, p published) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(p.data))
	if err != nil {
		return err
	}
	e, fact, err := event.Decode(p.data)
	if err != nil {
		return err
	}
	s, ok := schemas[e.Type]
	switch {
	case !ok || fact == nil:
		return fmt.Errorf("type %q is not in the catalogue", e.Type)
	case e.Subject != p.subject:
		return fmt.Errorf("says subject %s, was published at %s", e.Subject, p.subject)
	case len(p.header[nats.MsgIdHdr]) != 1 || p.header[nats.MsgIdHdr][0] != e.ID:
		return fmt.Errorf("id %q, header %s %q", e.ID, nats.MsgIdHdr, p.header[nats.MsgIdHdr])
	case !strings.HasPrefix(e.Source, "/site/"+p.site+"/"):
		return fmt.Errorf("source %s, published at site %s", e.Source, p.site)
	}
	token := strings.Split(p.subject, ".") // hf.v1.evt.<site>.<entity>.<id>.<fact>
	if len(token) != 7 || token[3] != p.site || "hf.v1."+token[4]+"."+token[6] != e.Type {
		return fmt.Errorf("type %s at subject %s of site %s", e.Type, p.subject, p.site)
	}
	if entity, name := fact.Key(); "hf.v1."+entity+"."+name != e.Type {
		return fmt.Errorf("type %s, its payload is of %s.%s", e.Type, entity, name)
	}
	if d, _ := event.Lookup(token[4], token[6]); !strings.HasPrefix(event.Publisher(e), p.site+"/"+d.Publisher) {
		return fmt.Errorf("published by %s, the catalogue says %s", event.Publisher(e), d.Publisher)
	}
	return s.Validate(doc)
}

// storedEvents reads a site's whole stream from its files, once the site is gone.
func storedEvents(t *testing.T, dir, site string) []published {
	t.Helper()
	srv, err := natsd.Start(natsd.Config{Site: domain.SiteID(site), Listen: "127.0.0.1:0", StoreDir: filepath.Join(dir, "site-"+site, "nats")})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop()
	nc, err := nats.Connect("nats://" + srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, "HF_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	var out []published
	state := stream.CachedInfo().State
	for seq := max(state.FirstSeq, 1); seq <= state.LastSeq; seq++ { // a witness may have told nothing
		m, err := stream.GetMsg(ctx, seq)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, published{site, m.Subject, m.Header, m.Data})
	}
	return out
}

func TestEveryEventOfTheDemoMatchesItsSchema(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: four scenarios of the demo take a minute; run without -short")
	}
	schemas := eventSchemas(t)
	for scenario, expected := range map[string][]string{
		"site-loss": {"disaster.suspected", "disaster.confirmed", "disaster.declared", "group.epoch_granted", "group.promoted", "run.started",
			"run.step_done", "run.completed", "vm.started", "vm.answered", "name.changed", "site.lost", "group.in_sync_changed"},
		"failback": {"disaster.over", "group.fenced", "group.target_streaming", "group.lease_released", "group.demoted",
			"vm.stopped", "group.desired_changed", "site.recovered", "group.serving_stopped"},
		"partition":     {"vm.killed", "group.lease_lost", "disaster.declared"},
		"host-incident": {"host.lost", "vm.lost", "incident.opened", "run.completed"},
	} {
		t.Run(scenario, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "demo")
			if o := holdfast(t.Context(), "demo", "--scenario", scenario, "--seed", "7", "--dir", dir, "--keep", "--output", "json"); o.code != 0 {
				t.Logf("the demo's own checks, which other tests judge: %v", o.err)
			}
			types, ids, total := map[string]int{}, map[string]published{}, 0
			for _, site := range []string{"a", "b", "w"} {
				for _, p := range storedEvents(t, dir, site) {
					total++
					if err := judgeEvent(schemas, p); err != nil {
						t.Errorf("site %s: %v\n%s", site, err, p.data)
					}
					var e event.Event
					if err := json.Unmarshal(p.data, &e); err != nil {
						t.Fatal(err)
					}
					if before, twice := ids[e.Source+" "+e.ID]; twice {
						t.Errorf("id %s of %s twice:\n%s\n%s", e.ID, e.Source, before.data, p.data)
					}
					ids[e.Source+" "+e.ID] = p
					types[e.Type]++
				}
			}
			for _, want := range expected {
				if types["hf.v1."+want] == 0 {
					t.Errorf("no %s among the %d events: %v", want, total, types)
				}
			}
			t.Logf("%d events of %d types", total, len(types))
		})
	}
}

func TestAnEventUnlikeItsSchemaIsFound(t *testing.T) {
	schemas := eventSchemas(t)
	d, _ := event.Lookup("group", "epoch_granted")
	e, err := describe.Example(d)
	if err != nil {
		t.Fatal(err)
	}
	message := func(e event.Event, data string) published {
		e.Data = json.RawMessage(data)
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return published{"b", e.Subject, map[string][]string{nats.MsgIdHdr: {e.ID}}, raw}
	}
	good := message(e, string(e.Data))
	if err := judgeEvent(schemas, good); err != nil {
		t.Fatalf("the example itself: %v", err)
	}
	other := good
	other.subject = strings.Replace(good.subject, ".b.", ".a.", 1)
	unknown, stray := e, e
	unknown.Type = "hf.v1.group.exploded"
	stray.Source = "/site/b/dns"
	for what, p := range map[string]published{
		"another subject":  other,
		"an unknown type":  message(unknown, string(e.Data)),
		"another service":  message(stray, string(e.Data)),
		"an epoch in text": message(e, strings.Replace(string(e.Data), `"epoch":514`, `"epoch":"0.2.2"`, 1)),
		"no group":         message(e, strings.Replace(string(e.Data), `"group":"erp",`, "", 1)),
		"another header":   {good.site, good.subject, map[string][]string{nats.MsgIdHdr: {"x"}}, good.data},
	} {
		if judgeEvent(schemas, p) == nil {
			t.Errorf("%s: passes: %s", what, p.data)
		}
	}
}
