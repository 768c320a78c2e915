package describe

import (
	_ "embed"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/holdfast-dr/holdfast/pkg/event"
)

//go:embed comments.json
var commentsJSON []byte

// field is one JSON member of a payload type.
type field struct {
	name    string // in JSON
	typ     reflect.Type
	always  bool     // it is in every message
	values  []string // nil: any
	unit    string
	meaning string
}

// book knows the meaning of every type and field.
type book struct {
	comments map[string]string
	values   map[string][]string
}

func newBook() (book, error) {
	b := book{comments: map[string]string{}, values: event.Values()}
	return b, json.Unmarshal(commentsJSON, &b.comments)
}

// fields lists a struct's members in the order of the source.
func (b book) fields(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag := strings.Split(f.Tag.Get("json"), ",")
		if !f.IsExported() || tag[0] == "-" || tag[0] == "" {
			continue
		}
		optional := slices.Contains(tag, "omitempty") || slices.Contains(tag, "omitzero")
		values := b.values[t.Name()+"."+f.Name]
		if values == nil {
			values = b.values[f.Type.Name()]
		}
		out = append(out, field{name: tag[0], typ: f.Type, always: !optional, values: values,
			unit: unitOf(tag[0], f.Type), meaning: b.meaning(t, f)})
	}
	return out
}

// meaning is a field's comment or, where it has none, the first sentence about its type; empty when there is neither.
func (b book) meaning(t reflect.Type, f reflect.StructField) string {
	if text := b.comments[t.Name()+"."+f.Name]; text != "" {
		return sentence(f.Name, text)
	}
	text := b.about(named(f.Type))
	if i := strings.Index(text, ". "); i >= 0 {
		text = text[:i+1]
	}
	return text
}

// about is what a type's comment says, without the type's name.
func (b book) about(t reflect.Type) string { return sentence(t.Name(), b.comments[t.Name()]) }

// sentence makes "Missed is how many beats" into "How many beats".
func sentence(name, text string) string {
	if rest, ok := strings.CutPrefix(text, name+" "); ok {
		for _, verb := range []string{"is ", "are ", "tells that ", "names "} {
			if r, ok := strings.CutPrefix(rest, verb); ok {
				rest = r
				break
			}
		}
		text = rest
	}
	if first, _, _ := strings.Cut(text, " "); first == "" || strings.ContainsAny(first, "./<") {
		return text // nothing, or a name
	}
	r := []rune(text)
	r[0] = unicode.ToUpper(r[0])
	return strings.TrimSuffix(string(r), ".")
}

// named is the element type of a list or map, or the type itself.
func named(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Slice || t.Kind() == reflect.Map || t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

func isTime(t reflect.Type) bool { return t == reflect.TypeFor[time.Time]() }

func isRaw(t reflect.Type) bool { return t == reflect.TypeFor[json.RawMessage]() }

// isStruct tells the types that have a table of their own.
func isStruct(t reflect.Type) bool { return t.Kind() == reflect.Struct && !isTime(t) }

// unitOf is the unit that a field's name ends with, as the style has it.
func unitOf(name string, t reflect.Type) string {
	last := name[strings.LastIndex(name, "_")+1:]
	switch {
	case isTime(t):
		return "RFC 3339, UTC"
	case t.Kind() < reflect.Int || t.Kind() > reflect.Float64:
		return ""
	case last == "bytes" || name == "offset" || name == "length":
		return "bytes"
	case last == "seconds" || name == "ttl":
		return "seconds"
	case last == "ns":
		return "nanoseconds"
	case name == "writes":
		return "writes"
	case name == "votes" || name == "needed":
		return "votes"
	}
	return ""
}

// structs lists the struct types that a type is made of, itself first.
func structs(t reflect.Type) []reflect.Type {
	var out []reflect.Type
	var walk func(reflect.Type)
	walk = func(t reflect.Type) {
		if t = named(t); !isStruct(t) || slices.Contains(out, t) {
			return
		}
		out = append(out, t)
		for i := range t.NumField() {
			walk(t.Field(i).Type)
		}
	}
	walk(t)
	return out
}

// payload is the Go type of an event's data.
func payload(d event.Definition) reflect.Type { return reflect.TypeOf(d.New()).Elem() }

// payloads lists every struct type of the catalogue once, those of an event before those within them.
func payloads() []reflect.Type {
	var top, inner []reflect.Type
	for _, d := range event.Catalogue() {
		for i, t := range structs(payload(d)) {
			if i == 0 && !slices.Contains(top, t) {
				top = append(top, t)
			} else if i > 0 && !slices.Contains(inner, t) {
				inner = append(inner, t)
			}
		}
	}
	return append(top, inner...)
}

// TypeNames names every type whose comments are part of the description.
func TypeNames() map[string]bool {
	out := map[string]bool{"Event": true}
	for _, t := range payloads() {
		out[t.Name()] = true
		for i := range t.NumField() {
			if n := named(t.Field(i).Type); n.PkgPath() != "" && !isTime(n) {
				out[n.Name()] = true
			}
			if f := t.Field(i).Type; f.Kind() == reflect.Map {
				out[f.Key().Name()] = true
			}
		}
	}
	return out
}
