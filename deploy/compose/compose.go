// Package compose holds the compose files of a site, for holdfast site init to put into a site's folder. It wires nothing:
// the files are what runs.
package compose

import (
	_ "embed" // the files
	"fmt"
	"strings"
)

var (
	//go:embed data.yml
	data []byte
	//go:embed witness.yml
	witness []byte
	//go:embed .env.example
	example []byte
)

// Data is the docker-compose.yml of a data site.
func Data() []byte { return data }

// Witness is the docker-compose.yml of a witness site.
func Witness() []byte { return witness }

// Example is the commented .env of a site, every variable with its default.
func Example() []byte { return example }

// Variable is one line of a site's .env.
type Variable struct{ Name, Value string }

// Env is a site's .env: the example with these variables set. It is an error to set one that the example does not have.
func Env(set ...Variable) ([]byte, error) {
	lines := strings.Split(string(example), "\n")
	for _, v := range set {
		if strings.ContainsAny(v.Value, "\n\r\"'$#") {
			return nil, fmt.Errorf("write .env: %s: the value %q has a quote, a line end, $ or #, which compose files do not take alike: choose another", v.Name, v.Value)
		}
		if !assign(lines, v) {
			return nil, fmt.Errorf("write .env: %s is no variable of the compose files: use one of .env.example", v.Name)
		}
	}
	return []byte(strings.Join(lines, "\n")), nil
}

// assign sets a variable on the line that has it, commented out or not.
func assign(lines []string, v Variable) bool {
	for i, line := range lines {
		name, _, ok := strings.Cut(strings.TrimPrefix(line, "#"), "=")
		if ok && name == v.Name {
			lines[i] = v.Name + "=" + v.Value
			return true
		}
	}
	return false
}
