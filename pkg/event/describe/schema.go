package describe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/event"
)

const dialect = "https://json-schema.org/draft/2020-12/schema"

// envelopeFile is the schema that every event's own refers to, beside it.
const envelopeFile = "cloudevent.json"

// schema is a JSON Schema in the part of the language that draft 2020-12 and draft 7 read alike (AsyncAPI's tools read
// the latter): nothing stands beside $ref.
type schema struct {
	Dialect     string             `json:"$schema,omitempty"`
	Title       string             `json:"title,omitempty"`
	Description string             `json:"description,omitempty"`
	Ref         string             `json:"$ref,omitempty"`
	Type        any                `json:"type,omitempty"`
	Const       string             `json:"const,omitempty"`
	Enum        []string           `json:"enum,omitempty"`
	Format      string             `json:"format,omitempty"`
	Pattern     string             `json:"pattern,omitempty"`
	MinLength   int                `json:"minLength,omitempty"`
	Minimum     *int               `json:"minimum,omitempty"`
	AllOf       []*schema          `json:"allOf,omitempty"`
	Required    []string           `json:"required,omitempty"`
	Properties  properties         `json:"properties,omitempty"`
	Items       *schema            `json:"items,omitempty"`
	Values      *schema            `json:"additionalProperties,omitempty"` // of a map
	Defs        map[string]*schema `json:"$defs,omitempty"`
	Examples    []any              `json:"examples,omitempty"`
}

// properties keep the order of the source.
type properties []property

type property struct {
	name   string
	schema *schema
}

// MarshalJSON implements json.Marshaler.
func (ps properties) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, p := range ps {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := json.Marshal(p.schema)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", p.name, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// schemaOf is the schema of a Go type as encoding/json writes it.
func (b book) schemaOf(t reflect.Type) *schema {
	zero := 0
	switch {
	case isTime(t):
		return &schema{Type: "string", Format: "date-time"}
	case isRaw(t):
		return &schema{Type: "object"}
	case isStruct(t):
		return &schema{Ref: "#/$defs/" + t.Name()}
	}
	switch t.Kind() {
	case reflect.String:
		return &schema{Type: "string"}
	case reflect.Bool:
		return &schema{Type: "boolean"}
	case reflect.Float64:
		return &schema{Type: "number"}
	case reflect.Uint32, reflect.Uint64:
		return &schema{Type: "integer", Minimum: &zero}
	case reflect.Int, reflect.Int64:
		return &schema{Type: "integer"}
	case reflect.Slice:
		return &schema{Type: "array", Items: b.schemaOf(t.Elem())}
	case reflect.Map:
		return &schema{Type: "object", Values: b.schemaOf(t.Elem())}
	}
	panic("describe: no schema for " + t.String()) // a test walks the catalogue
}

// property is a field's schema with its meaning. A list or map that is always there may be null: an empty one of Go.
func (b book) property(f field) property {
	s := b.schemaOf(f.typ)
	if f.always && !isRaw(f.typ) && (f.typ.Kind() == reflect.Slice || f.typ.Kind() == reflect.Map) {
		s.Type = []string{s.Type.(string), "null"}
	}
	if f.values != nil {
		s.Enum = f.values
		if !f.always {
			s.Enum = append([]string{""}, s.Enum...)
		}
	}
	if s.Ref != "" {
		s = &schema{AllOf: []*schema{s}}
	}
	s.Description = f.meaning
	if f.unit != "" {
		s.Description += " (" + f.unit + ")"
	}
	return property{f.name, s}
}

func (b book) object(t reflect.Type) *schema {
	s := &schema{Type: "object", Description: b.about(t)}
	for _, f := range b.fields(t) {
		s.Properties = append(s.Properties, b.property(f))
		if f.always {
			s.Required = append(s.Required, f.name)
		}
	}
	return s
}

// envelope is the schema of what all events share.
func (b book) envelope() *schema {
	s := b.object(reflect.TypeFor[event.Event]())
	s.Dialect, s.Title = dialect, "CloudEvents 1.0 envelope of a Holdfast event"
	s.Description = "CloudEvents 1.0, JSON format, structured mode: one object is one NATS message. Within v1 members are added, never taken away or changed."
	more := map[string]schema{
		"specversion": {Const: event.SpecVersion}, "datacontenttype": {Const: event.ContentType},
		"id": {MinLength: 1}, "source": {Pattern: `^/site/[^/]+/[^/]+$`}, "type": {Pattern: `^hf\.v1\.[a-z]+\.[a-z_]+$`},
		"subject":     {Pattern: `^hf\.v1\.evt\.[^.]+\.[a-z]+\.[^.]+\.[a-z_]+$`},
		"traceparent": {Pattern: `^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`},
	}
	for _, p := range s.Properties {
		m := more[p.name]
		p.schema.Const, p.schema.Pattern, p.schema.MinLength = m.Const, m.Pattern, m.MinLength
	}
	return s
}

// message is the schema of one event: the envelope and its payload.
func (b book) message(d event.Definition) (*schema, error) {
	example, err := Example(d)
	if err != nil {
		return nil, err
	}
	subject := `^hf\.v1\.evt\.[^.]+\.` + regexp.QuoteMeta(d.Entity) + `\.[^.]+\.` + regexp.QuoteMeta(d.Fact) + `$`
	s := &schema{Dialect: dialect, Title: d.Type(), Description: d.When, AllOf: []*schema{{Ref: envelopeFile}}, Examples: []any{example},
		Properties: properties{{"type", &schema{Const: d.Type()}}, {"subject", &schema{Pattern: subject}}, {"data", &schema{Ref: "#/$defs/" + payload(d).Name()}}},
		Defs:       map[string]*schema{}}
	for i, t := range structs(payload(d)) {
		o := b.object(t)
		if i == 0 {
			fix(o, "fact", d.Fact)
			fix(o, "what", d.Entity)
		}
		s.Defs[t.Name()] = o
	}
	return s, nil
}

// fix gives a member the one value that it has in this event.
func fix(o *schema, name, value string) {
	for _, p := range o.Properties {
		if p.name == name {
			p.schema.Const = value
		}
	}
}

// Example is a message of this kind as one is published.
func Example(d event.Definition) (event.Event, error) {
	f := d.Example()
	site, service := domain.SiteID("b"), d.Publisher
	if service == "host" {
		service = "host-b-h1"
	}
	e, err := event.New(site, service, fmt.Sprintf("%s-%s-514-%s", d.Entity, f.Of(), d.Fact), time.Date(2026, 11, 23, 1, 30, 7, 480e6, time.UTC), f)
	e.TraceParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	return e, err
}
