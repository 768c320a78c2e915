package sitefolder

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/identity"
)

// editSites brings the list of sites in a site.yaml up to what the installation says, line by line: every other byte of the
// file stays as its owner left it. A site that is missing is added; an address that is still the one of before (was) follows
// the installation, one that somebody set by hand stays; a site that left the installation goes.
func editSites(name string, text []byte, now, was []identity.Facts) ([]byte, error) {
	list, err := findSites(name, text)
	if err != nil {
		return nil, err
	}
	e := editor{name: name, lines: strings.SplitAfter(string(text), "\n")}
	if list == nil || list.Kind != yaml.SequenceNode || list.Style&yaml.FlowStyle != 0 || len(list.Content) == 0 {
		if list != nil && list.Kind == yaml.SequenceNode && len(missing(list, now)) == 0 {
			return text, nil
		}
		return nil, e.unable("write them below \"sites:\", one on each line", now)
	}
	last := list.Content[len(list.Content)-1]
	e.insertAfter(e.end(last, list.Column), list.Column-1, missing(list, now))
	for _, item := range slices.Backward(list.Content) { // from the end, so that lines keep their numbers
		if err := e.entry(item, list.Column, now, was); err != nil {
			return nil, err
		}
	}
	out := []byte(strings.Join(e.lines, ""))
	return out, e.verify(out, now)
}

func findSites(name string, text []byte) (*yaml.Node, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("update the sites in %s: %w: not readable as YAML: %w: mend the file and run the command again", name, domain.ErrInvalid, err)
	}
	if len(root.Content) > 0 {
		return value(root.Content[0], "sites"), nil
	}
	return nil, nil
}

// value is what a mapping has at a key.
func value(m *yaml.Node, key string) *yaml.Node {
	if m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func text(m *yaml.Node, key string) string {
	if v := value(m, key); v != nil {
		return v.Value
	}
	return ""
}

func missing(list *yaml.Node, now []identity.Facts) []identity.Facts {
	return slices.DeleteFunc(slices.Clone(now), func(f identity.Facts) bool {
		return slices.ContainsFunc(list.Content, func(n *yaml.Node) bool { return text(n, "id") == string(f.Site) })
	})
}

func find(sites []identity.Facts, id string) (identity.Facts, bool) {
	i := slices.IndexFunc(sites, func(f identity.Facts) bool { return string(f.Site) == id })
	if i < 0 {
		return identity.Facts{}, false
	}
	return sites[i], true
}

// editor changes lines of a file.
type editor struct {
	name  string
	lines []string // each with its line end
}

func (e *editor) unable(how string, now []identity.Facts) error {
	var want strings.Builder
	for _, f := range now {
		want.WriteString("\n  " + siteLine(f))
	}
	return fmt.Errorf("update the sites in %s: %w: the list of sites cannot be changed as it is written there: %s:%s", e.name, domain.ErrInvalid, how, want.String())
}

// end is the number of the last line of a list's item.
func (e *editor) end(item *yaml.Node, column int) int {
	line := lastLine(item)
	for line < len(e.lines) { // a closing brace on a line of its own
		next := e.lines[line]
		trimmed := strings.TrimLeft(next, " ")
		if strings.TrimSpace(next) == "" || strings.HasPrefix(trimmed, "#") || len(next)-len(trimmed) < column {
			break
		}
		line++
	}
	return line
}

func lastLine(n *yaml.Node) int {
	line := n.Line
	for _, c := range n.Content {
		line = max(line, lastLine(c))
	}
	return line
}

func (e *editor) insertAfter(line, indent int, sites []identity.Facts) {
	if len(sites) == 0 {
		return
	}
	if !strings.HasSuffix(e.lines[line-1], "\n") {
		e.lines[line-1] += "\n"
	}
	var add []string
	for _, s := range sites {
		add = append(add, strings.Repeat(" ", indent)+siteLine(s)+"\n")
	}
	e.lines = slices.Insert(e.lines, line, add...)
}

// entry brings one site's entry up to date.
func (e *editor) entry(item *yaml.Node, column int, now, was []identity.Facts) error {
	id := text(item, "id")
	old, hadOld := find(was, id)
	f, ok := find(now, id)
	if !ok {
		if hadOld {
			e.lines = slices.Delete(e.lines, item.Line-1, e.end(item, column))
		}
		return nil
	}
	for _, c := range []struct{ key, want string }{{"index", fmt.Sprint(f.Index)}, {"role", string(f.Role)}} {
		if got := text(item, c.key); got != c.want {
			return fmt.Errorf("update the sites in %s: %w: line %d says that site %s has %s %q, the installation says %q: write %s: %s there, or start again with another installation",
				e.name, domain.ErrRefused, item.Line, id, c.key, got, c.want, c.key, c.want)
		}
	}
	if hadOld {
		e.follow(value(item, "nats"), old.NATS, f.NATS)
		e.follow(value(item, "dns"), old.DNS, f.DNS)
	}
	return nil
}

// follow writes a new value where the old one still stands.
func (e *editor) follow(n *yaml.Node, old, now string) {
	if n == nil || old == "" || now == "" || old == now || n.Value != old {
		return
	}
	line, from := e.lines[n.Line-1], n.Column-1
	if from <= len(line) {
		e.lines[n.Line-1] = line[:from] + strings.Replace(line[from:], old, now, 1)
	}
}

// verify reads what was written: an edit of text must not be trusted.
func (e *editor) verify(out []byte, now []identity.Facts) error {
	list, err := findSites(e.name, out)
	if err != nil {
		return err
	}
	if list == nil || list.Kind != yaml.SequenceNode || len(missing(list, now)) > 0 {
		return e.unable("make its list of sites this one", now)
	}
	return nil
}
