package describe_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	asyncapi "github.com/asyncapi/spec-json-schemas/v6"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"github.com/holdfast-dr/holdfast/pkg/event"
	"github.com/holdfast-dr/holdfast/pkg/event/describe"
	"github.com/holdfast-dr/holdfast/pkg/event/describe/internal/comments"
)

const (
	docs = "../../../docs"
	mend = "run task generate"
)

var release = flag.String("release", "", "write the contract of this release into testdata, for example v0.2")

func files(t *testing.T) map[string][]byte {
	t.Helper()
	out, err := describe.Files()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCommittedDescriptionIsWhatTheCatalogueGenerates(t *testing.T) {
	texts, err := comments.Read(describe.TypeNames(), "../../event", "../../api", "../../domain")
	if err != nil {
		t.Fatal(err)
	}
	committed := map[string]string{}
	raw, err := os.ReadFile("comments.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &committed); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(texts, committed) {
		t.Fatalf("comments.json is not what the source says: %s", mend)
	}
	want := files(t)
	for path, data := range want {
		got, err := os.ReadFile(filepath.Join(docs, path))
		if err != nil {
			t.Errorf("%v: %s", err, mend)
		} else if !bytes.Equal(got, data) {
			t.Errorf("docs/%s is not what the catalogue generates: %s", path, mend)
		}
	}
	old, err := filepath.Glob(filepath.Join(docs, "schemas", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range old {
		if _, ok := want["schemas/"+filepath.Base(path)]; !ok {
			t.Errorf("%s is of no event in the catalogue: %s", path, mend)
		}
	}
}

func TestEveryFieldOfEveryEventHasAMeaning(t *testing.T) {
	for path, data := range files(t) {
		if !strings.HasPrefix(path, "schemas/") {
			continue
		}
		var s struct {
			Properties map[string]struct{ Description string }
			Defs       map[string]struct {
				Description string
				Properties  map[string]struct{ Description string }
			} `json:"$defs"`
		}
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		if path == "schemas/cloudevent.json" {
			for name, p := range s.Properties {
				if p.Description == "" {
					t.Errorf("event.Event: field %s has no comment", name)
				}
			}
		}
		for def, o := range s.Defs {
			if o.Description == "" {
				t.Errorf("type %s has no comment", def)
			}
			for name, p := range o.Properties {
				if p.Description == "" || strings.HasPrefix(p.Description, " ") {
					t.Errorf("%s: %s.%s has no comment, and its type none either", path, def, name)
				}
			}
		}
	}
}

// compile holds the schemas to the meta-schema of draft 2020-12 and returns each event's.
func compile(t *testing.T, schemas map[string][]byte) map[string]*jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for path, data := range schemas {
		if strings.HasPrefix(path, "schemas/") {
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if err := c.AddResource("file:///"+path, doc); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
		}
	}
	out := map[string]*jsonschema.Schema{}
	for path := range schemas {
		if strings.HasPrefix(path, "schemas/") {
			s, err := c.Compile("file:///" + path)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			out[strings.TrimPrefix(path, "schemas/")] = s
		}
	}
	return out
}

func instance(t *testing.T, v any) any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestEveryExampleMatchesItsOwnSchemaAndNoOther(t *testing.T) {
	schemas := compile(t, files(t))
	if len(schemas) != len(event.Catalogue())+1 {
		t.Fatalf("%d schemas for %d events and the envelope", len(schemas), len(event.Catalogue()))
	}
	var before *jsonschema.Schema
	for _, d := range event.Catalogue() {
		e, err := describe.Example(d)
		if err != nil {
			t.Fatal(err)
		}
		s := schemas[describe.SchemaFile(d)]
		if err := s.Validate(instance(t, e)); err != nil {
			t.Errorf("%s: %v", d.Type(), err)
		}
		if before != nil && before.Validate(instance(t, e)) == nil {
			t.Errorf("%s passes the schema of another event", d.Type())
		}
		before = s
		if _, f, err := event.Decode(mustJSON(t, e)); err != nil || f == nil {
			t.Errorf("%s: decode: %v %v", d.Type(), f, err)
		}
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestMutilatedEventFailsItsSchema(t *testing.T) {
	schemas := compile(t, files(t))
	d, _ := event.Lookup("group", "promoted")
	e, err := describe.Example(d)
	if err != nil {
		t.Fatal(err)
	}
	for what, mutilate := range map[string]func(m, data map[string]any){
		"no id":                  func(m, _ map[string]any) { delete(m, "id") },
		"empty id":               func(m, _ map[string]any) { m["id"] = "" },
		"another spec":           func(m, _ map[string]any) { m["specversion"] = "0.3" },
		"another entity":         func(m, _ map[string]any) { m["subject"] = "hf.v1.evt.b.vm.erp.promoted" },
		"time in words":          func(m, _ map[string]any) { m["time"] = "yesterday" },
		"trace in capitals":      func(m, _ map[string]any) { m["traceparent"] = strings.ToUpper(e.TraceParent) },
		"no payload":             func(m, _ map[string]any) { delete(m, "data") },
		"no epoch":               func(_, data map[string]any) { delete(data, "epoch") },
		"an epoch in words":      func(_, data map[string]any) { data["epoch"] = "0.2.2" },
		"a negative LSN":         func(_, data map[string]any) { data["lsn"] = -1 },
		"the fact of another":    func(_, data map[string]any) { data["fact"] = "demoted" },
		"a site that is no text": func(_, data map[string]any) { data["site"] = nil },
	} {
		t.Run(what, func(t *testing.T) {
			m := map[string]any{}
			if err := json.Unmarshal(mustJSON(t, e), &m); err != nil {
				t.Fatal(err)
			}
			mutilate(m, m["data"].(map[string]any))
			if schemas[describe.SchemaFile(d)].Validate(instance(t, m)) == nil {
				t.Error("passes")
			}
		})
	}
}

func TestUnknownFieldsPassSoThatTheCatalogueMayGrow(t *testing.T) {
	schemas := compile(t, files(t))
	d, _ := event.Lookup("group", "promoted")
	e, err := describe.Example(d)
	if err != nil {
		t.Fatal(err)
	}
	e.Data = json.RawMessage(strings.Replace(string(e.Data), "{", `{"from_the_future": {"x": 1},`, 1))
	if err := schemas[describe.SchemaFile(d)].Validate(instance(t, e)); err != nil {
		t.Error(err)
	}
}

func TestAsyncAPIDocumentIsValidAndReachesEverySchema(t *testing.T) {
	spec, err := asyncapi.Get("3.0.0")
	if err != nil || spec == nil {
		t.Fatalf("no schema of AsyncAPI 3.0.0: %v", err)
	}
	specDoc, err := jsonschema.UnmarshalJSON(bytes.NewReader(spec))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	if err := c.AddResource("file:///asyncapi.json", specDoc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("file:///asyncapi.json")
	if err != nil {
		t.Fatal(err)
	}
	all := files(t)
	var doc map[string]any
	if err := yaml.Unmarshal(all["asyncapi.yaml"], &doc); err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(instance(t, doc)); err != nil {
		t.Error(err)
	}
	broken := maps.Clone(doc)
	delete(broken, "info")
	if s.Validate(instance(t, broken)) == nil {
		t.Error("a document without info passes: nothing was checked")
	}
	refs := 0
	eachRef(instance(t, doc), func(ref string) {
		refs++
		if local, ok := strings.CutPrefix(ref, "#/"); ok {
			at := instance(t, doc)
			for _, token := range strings.Split(local, "/") {
				m, _ := at.(map[string]any)
				if at = m[token]; at == nil {
					t.Errorf("%s leads nowhere", ref)
					return
				}
			}
		} else if all[strings.TrimPrefix(ref, "./")] == nil {
			t.Errorf("%s leads nowhere", ref)
		}
	})
	if refs < 3*len(event.Catalogue()) {
		t.Errorf("only %d references for %d events", refs, len(event.Catalogue()))
	}
}

func eachRef(v any, f func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if s, ok := x.(string); ok && k == "$ref" {
				f(s)
			}
			eachRef(x, f)
		}
	case []any:
		for _, x := range v {
			eachRef(x, f)
		}
	}
}

func TestWhatAReleasePromisedStillHolds(t *testing.T) {
	now, err := describe.Contract()
	if err != nil {
		t.Fatal(err)
	}
	if *release != "" {
		if err := os.WriteFile(filepath.Join("testdata", *release+".txt"), []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	released, err := filepath.Glob("testdata/v*.txt")
	if err != nil || len(released) == 0 {
		t.Fatalf("no released contract in testdata: %v", err)
	}
	for _, path := range released {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		then := strings.Split(string(raw), "\n")
		for _, line := range describe.Broken(then, now) {
			t.Errorf("%s promised, and no longer holds: %s", path, line)
		}
		if len(then) < 200 {
			t.Errorf("%s has only %d lines", path, len(then))
		}
	}
}

func TestATakenAwayPromiseIsNoticed(t *testing.T) {
	now, err := describe.Contract()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"hf.v1.group.promoted carries ReplicaChanged", "ReplicaChanged.lsn is integer", "ReplicaChanged.lsn is always there",
		`Observation.state may be "dead"`, "Event.id is string", "Assessment.evidence is array of Observation or null",
	} {
		i := slices.Index(now, line)
		if i < 0 {
			t.Errorf("the contract does not say %q", line)
			continue
		}
		less := slices.Delete(slices.Clone(now), i, i+1)
		if got := describe.Broken(now, less); !slices.Equal(got, []string{line}) {
			t.Errorf("without %q: %v", line, got)
		}
		if got := describe.Broken(less, now); len(got) != 0 {
			t.Errorf("adding %q is taken for a breach: %v", line, got)
		}
	}
}
