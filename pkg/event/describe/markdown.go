package describe

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/event"
)

const intro = `<!-- Made by "task generate" from pkg/event. Do not edit: change the catalogue and its comments. -->
# Events

Every fact that Holdfast learns or makes is an event at the NATS server of the site that tells it. How to subscribe from
outside, and what to expect of order, repeats and outages: [operations/events.md](operations/events.md).

An event is a [CloudEvents 1.0](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md) object in JSON,
one a message, at the subject

` + "```" + `
hf.v1.evt.<site>.<entity>.<id>.<fact>      for example  hf.v1.evt.b.group.erp.promoted
` + "```" + `

` + "`<site>`" + ` is the site that tells it, which need not be the site it tells of. In ` + "`<id>`" + ` the characters ` + "`.`, space, `*` and `>`" + ` stand as ` + "`_`" + `
and capitals as small letters (the name erp.example.org is erp_example_org). Subscribe to a part of it with wildcards:
` + "`hf.v1.evt.*.group.erp.>`, `hf.v1.evt.*.disaster.*.confirmed`" + `.

**Stability.** v1 only grows: new events, new fields and new values of a field may come; none goes, and none changes its type
or its meaning. Ignore what you do not know. A test holds every release to the last one's contract.

For programs: [a JSON Schema an event](schemas/), and [an AsyncAPI 3.0 document](asyncapi.yaml). ` + "`holdfast event catalogue`" + `
prints all of this for the version at hand.

`

// markdown is docs/events.md.
func (b book) markdown() ([]byte, error) {
	var w bytes.Buffer
	w.WriteString(intro)
	w.WriteString("## The envelope\n\n")
	b.table(&w, reflect.TypeFor[event.Event]())
	w.WriteString("\n## All of them\n\n| event | published by | when |\n|---|---|---|\n")
	for _, d := range event.Catalogue() {
		fmt.Fprintf(&w, "| [%s.%s](#%s) | %s | %s |\n", d.Entity, d.Fact, anchor(d.Type()), publisher(d), d.When)
	}
	w.WriteString("\n")
	for _, d := range event.Catalogue() {
		if err := b.event(&w, d); err != nil {
			return nil, err
		}
	}
	w.WriteString("## Payloads\n\n\"Always\" fields are in every message. A list or map that is always there may be `null` when it is empty.\n\n")
	for _, t := range payloads() {
		fmt.Fprintf(&w, "### %s\n\n%s.\n\n", t.Name(), strings.TrimSuffix(b.about(t), "."))
		b.table(&w, t)
		w.WriteString("\n")
	}
	return w.Bytes(), nil
}

func (b book) event(w *bytes.Buffer, d event.Definition) error {
	e, err := Example(d)
	if err != nil {
		return err
	}
	example, err := pretty(e)
	if err != nil {
		return err
	}
	name := payload(d).Name()
	fmt.Fprintf(w, "## %s\n\n%s\n\n- Published by %s at `hf.v1.evt.<site>.%s.<id>.%s`\n- Payload: [%s](#%s), [schema](schemas/%s)\n\n",
		d.Type(), d.When, publisher(d), d.Entity, d.Fact, name, strings.ToLower(name), SchemaFile(d))
	fmt.Fprintf(w, "<details><summary>Example</summary>\n\n```json\n%s```\n\n</details>\n\n", example)
	return nil
}

// table is a struct's fields.
func (b book) table(w *bytes.Buffer, t reflect.Type) {
	w.WriteString("| field | type | unit | | meaning |\n|---|---|---|---|---|\n")
	for _, f := range b.fields(t) {
		typ := typeText(field{typ: f.typ}) // that it may be null is said once
		if n := named(f.typ); isStruct(n) {
			typ = strings.Replace(typ, n.Name(), fmt.Sprintf("[%s](#%s)", n.Name(), strings.ToLower(n.Name())), 1)
		}
		always := ""
		if f.always {
			always = "always"
		}
		meaning := f.meaning
		if f.values != nil {
			meaning += ". One of `" + strings.Join(f.values, "`, `") + "`"
		}
		fmt.Fprintf(w, "| `%s` | %s | %s | %s | %s |\n", f.name, typ, f.unit, always, cell(meaning))
	}
}

// publisher is who publishes an event, for people.
func publisher(d event.Definition) string {
	if d.Publisher == "host" {
		return "a VM host's agent"
	}
	return d.Publisher
}

// anchor is the fragment that a heading has on GitHub.
func anchor(heading string) string { return strings.ReplaceAll(strings.ToLower(heading), ".", "") }

// cell keeps a text within a table's cell, placeholders in angle brackets as they are.
func cell(text string) string {
	var out []string
	for _, word := range strings.Fields(strings.ReplaceAll(text, "|", "\\|")) {
		bare := strings.TrimRight(word, ",.;:")
		if strings.ContainsAny(bare, "<>") && !strings.Contains(bare, "`") {
			word = "`" + bare + "`" + word[len(bare):]
		}
		out = append(out, word)
	}
	return strings.Join(slices.Clip(out), " ")
}
