package describe

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/event"
)

// Contract is what a subscriber may build on, a promise a line: each event and its payload type, each field with its
// type, which fields are always there, which values a field may have. Within v1 lines are added and none goes.
func Contract() ([]string, error) {
	b, err := newBook()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, d := range event.Catalogue() {
		out = append(out, d.Type()+" carries "+payload(d).Name())
	}
	for _, t := range append(payloads(), reflect.TypeFor[event.Event]()) {
		for _, f := range b.fields(t) {
			path := t.Name() + "." + f.name
			out = append(out, path+" is "+typeText(f))
			if f.always {
				out = append(out, path+" is always there")
			}
			for _, v := range f.values {
				out = append(out, fmt.Sprintf("%s may be %q", path, v))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// Broken lists the promises of an earlier contract that a later one does not make.
func Broken(earlier, later []string) []string {
	var out []string
	for _, line := range earlier {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(later, line) {
			out = append(out, line)
		}
	}
	return out
}

// typeText is a field's JSON type in words.
func typeText(f field) string {
	t := f.typ
	null := ""
	if f.always {
		null = " or null"
	}
	switch {
	case isRaw(t):
		return "object"
	case t.Kind() == reflect.Slice:
		return "array of " + wordOf(t.Elem()) + null
	case t.Kind() == reflect.Map:
		return "map of " + wordOf(t.Elem()) + null
	}
	return wordOf(t)
}

func wordOf(t reflect.Type) string {
	switch {
	case isTime(t):
		return "time"
	case isStruct(t):
		return t.Name()
	case t.Kind() == reflect.String:
		return "string"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Float64:
		return "number"
	}
	return "integer"
}
