package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Problem is one mistake in a file.
type Problem struct {
	File  string
	Line  int    // 0 when the whole file is meant
	Field string // for example groups[0].volumes[1].size
	What  string
	Mend  string
}

// String is file:line: field: what: mend.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.What)
	if p.Mend != "" {
		b.WriteString(": " + p.Mend)
	}
	return b.String()
}

// Problems is every mistake of a file, in the order of its lines. It wraps domain.ErrInvalid.
type Problems []Problem

// Error is one line a problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, x := range p {
		lines[i] = x.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.Is(err, domain.ErrInvalid) hold.
func (p Problems) Unwrap() error { return domain.ErrInvalid }

// Load reads, decodes and validates a file. The error is Problems when the file could be read. Relative paths in it are
// taken from the file's folder.
func Load(path string) (Config, error) {
	data, err := read(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w: %w", path, domain.ErrInvalid, err)
	}
	cfg, err := Parse(path, data)
	if err != nil {
		return Config{}, err
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	files := []*string{&cfg.DataDir, &cfg.RunDir, &cfg.Quorum.Share, &cfg.NATS.Conf, &cfg.Security.Secrets, &cfg.Tracing.CA,
		&cfg.ISCSI.CHAP.SecretFile, &cfg.ISCSI.CHAP.MutualSecretFile}
	if w := cfg.Quorum.Witness; w != nil {
		files = append(files, &w.CA)
	}
	if o := cfg.Quorum.Object; o != nil {
		files = append(files, &o.Credentials, &o.CA)
	}
	if cfg.DNS.Update != nil {
		files = append(files, &cfg.DNS.Update.KeyFile)
	}
	for i := range cfg.Health.Probes {
		files = append(files, &cfg.Health.Probes[i].CHAP.SecretFile, &cfg.Health.Probes[i].CHAP.MutualSecretFile)
	}
	for _, f := range files {
		if *f != "" && !filepath.IsAbs(*f) {
			*f = filepath.Join(base, *f)
		}
	}
	return cfg, nil
}

// Parse is Load of data that is there already; name stands for the file in messages.
func Parse(name string, data []byte) (Config, error) {
	var root, second yaml.Node
	documents := yaml.NewDecoder(bytes.NewReader(data))
	if err := documents.Decode(&root); errors.Is(err, io.EOF) {
		return Config{}, Problems{{File: name, What: "empty", Mend: "write a site's configuration into it; deploy/examples/site-a.yaml is a sample"}}
	} else if err != nil {
		return Config{}, syntaxProblem(name, err)
	}
	if err := documents.Decode(&second); err == nil {
		return Config{}, Problems{{File: name, Line: second.Line, What: "a second document", Mend: "keep one site's configuration in a file: remove the line '---' and what belongs to another"}}
	} else if !errors.Is(err, io.EOF) {
		return Config{}, syntaxProblem(name, err)
	}
	c := checker{file: name, lines: map[string]int{}}
	cfg := Default()
	if len(root.Content) > 0 {
		c.walk(root.Content[0], reflect.TypeFor[Config](), "")
		if len(c.problems) == 0 {
			if err := root.Content[0].Decode(&cfg); err != nil {
				return Config{}, syntaxProblem(name, err)
			}
		}
	}
	if len(c.problems) == 0 {
		for i := range cfg.Groups {
			cfg.Groups[i] = withGroupDefaults(cfg.Groups[i], cfg.Declarations)
		}
		for _, p := range cfg.Validate() {
			p.File, p.Line = name, c.lineOf(p.Field)
			c.problems = append(c.problems, p)
		}
	}
	if len(c.problems) > 0 {
		slices.SortStableFunc(c.problems, func(a, b Problem) int { return a.Line - b.Line })
		return Config{}, c.problems
	}
	return cfg, nil
}

func syntaxProblem(name string, err error) error {
	line := 0
	var le *yaml.LoadError
	if errors.As(err, &le) {
		line = le.Mark.Line
		err = errors.New(le.Message)
	}
	return Problems{{File: name, Line: line, What: "not readable as YAML: " + err.Error(), Mend: "mend the syntax on that line (indentation with spaces, a colon after each key)"}}
}

// checker walks the file beside the type it is to become.
type checker struct {
	file     string
	problems Problems
	lines    map[string]int // field path to line
}

// lineOf is the line of a field, or of the nearest part of its path that the file has.
func (c *checker) lineOf(field string) int {
	for field != "" {
		if l, ok := c.lines[field]; ok {
			return l
		}
		i := strings.LastIndexAny(field, ".[")
		if i < 0 {
			return 0
		}
		field = field[:i]
	}
	return 0
}

func (c *checker) add(line int, field, what, mend string) {
	c.problems = append(c.problems, Problem{File: c.file, Line: line, Field: field, What: what, Mend: mend})
}

func (c *checker) walk(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if path != "" {
		c.lines[path] = n.Line
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Tag == "!!null" {
		return
	}
	switch {
	case t.Kind() == reflect.Struct:
		c.walkStruct(n, t, path)
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for i, item := range n.Content {
			c.walk(item, t.Elem(), fmt.Sprintf("%s[%d]", path, i))
		}
	case t.Kind() == reflect.Map && n.Kind == yaml.MappingNode:
		c.eachPair(n, path, func(k, v *yaml.Node) { c.walk(v, t.Elem(), path+"["+k.Value+"]") })
	case t.Kind() == reflect.Slice:
		c.add(n.Line, path, "want a list", "write each item on a line of its own, beginning with '- '")
	case n.Kind != yaml.ScalarNode:
		c.add(n.Line, path, "want a single value", "write it on the line of its key")
	default:
		c.scalar(n, t, path)
	}
}

func (c *checker) scalar(n *yaml.Node, t reflect.Type, path string) {
	target := reflect.New(t).Interface()
	var err error
	if u, ok := target.(yaml.Unmarshaler); ok {
		err = u.UnmarshalYAML(n) // Decode would wrap its error into text
	} else {
		err = n.Decode(target)
	}
	if err == nil {
		return
	}
	var fe *fieldError
	if errors.As(err, &fe) {
		c.add(n.Line, path, fe.problem, fe.mend)
		return
	}
	if text, ok := target.(encoding.TextUnmarshaler); ok {
		what, mend, _ := strings.Cut(text.UnmarshalText([]byte(n.Value)).Error(), ": "+domain.ErrInvalid.Error()+": ")
		c.add(n.Line, path, what, mend)
		return
	}
	want := map[reflect.Kind]string{reflect.Int: "a whole number", reflect.Int64: "a whole number", reflect.Bool: "true or false", reflect.String: "text"}[t.Kind()]
	c.add(n.Line, path, fmt.Sprintf("%q does not fit", n.Value), "write "+want)
}

// eachPair visits a mapping's pairs and tells keys that stand twice.
func (c *checker) eachPair(n *yaml.Node, path string, f func(k, v *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if first, ok := seen[k.Value]; ok {
			c.add(k.Line, strings.TrimPrefix(path+"."+k.Value, "."), "stands twice", fmt.Sprintf("remove one; the first is on line %d", first))
			continue
		}
		seen[k.Value] = k.Line
		f(k, v)
	}
}

func (c *checker) walkStruct(n *yaml.Node, t reflect.Type, path string) {
	if n.Kind != yaml.MappingNode {
		c.add(n.Line, path, "want keys and values", "write each as 'key: value' on a line of its own, indented below")
		return
	}
	fields := map[string]reflect.Type{}
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			fields[name] = t.Field(i).Type
			names = append(names, name)
		}
	}
	c.eachPair(n, path, func(k, v *yaml.Node) {
		field := strings.TrimPrefix(path+"."+k.Value, ".")
		ft, ok := fields[k.Value]
		if !ok {
			c.add(k.Line, field, "unknown key", mendKey(k.Value, names))
			return
		}
		c.walk(v, ft, field)
	})
}

func mendKey(got string, names []string) string {
	best, dist := "", 3
	for _, n := range names {
		if d := distance(got, n); d < dist {
			best, dist = n, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "use one of " + strings.Join(names, ", ")
}

// distance is the Levenshtein distance of two short words.
func distance(a, b string) int {
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		diag := prev[0]
		prev[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, prev[j+1] = prev[j+1], min(prev[j+1]+1, prev[j]+1, diag+cost)
		}
	}
	return prev[len(b)]
}

// maxBytes is more than a configuration of 2,000 VMs needs. What is named by mistake, a disk or /dev/zero, may have no end.
const maxBytes = 16 << 20

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err == nil && len(data) > maxBytes {
		err = fmt.Errorf("it is larger than %d MiB and no configuration: name the site's YAML file", maxBytes>>20)
	}
	return data, err
}
