package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Witness is everything a witness service needs to know: one that votes for many installations and is a site of none.
type Witness struct {
	Listen string `yaml:"listen"` // host:port
	// DataDir holds the votes. It must outlive the process and the machine's loss of power, and never be put back from an older copy.
	DataDir     string           `yaml:"data_dir"`
	RunDir      string           `yaml:"run_dir"`     // in memory (tmpfs), as a site's; empty: one below /dev/shm
	Certificate string           `yaml:"certificate"` // PEM
	Key         string           `yaml:"key"`         // PEM
	Clusters    []WitnessCluster `yaml:"clusters"`
	Log         Log              `yaml:"log"`
}

// WitnessCluster is an installation that a witness votes for.
type WitnessCluster struct {
	Name  string       `yaml:"name"` // cluster of its sites' files
	CA    string       `yaml:"ca"`   // a copy of secrets/trust/ca.pem of one of its sites
	Quota WitnessQuota `yaml:"quota"`
}

// WitnessQuota is what one installation may ask of a witness. What is left out is the default.
type WitnessQuota struct {
	Groups         int  `yaml:"groups"`           // 32
	VotesPerSecond int  `yaml:"votes_per_second"` // 400; one that is made durable counts as ten
	BytesPerSecond Size `yaml:"bytes_per_second"` // 512KiB
	Connections    int  `yaml:"connections"`      // 16
}

// LoadWitness reads, decodes and validates a witness' file. The error is Problems when the file could be read. Relative paths in it are
// taken from the file's folder.
func LoadWitness(path string) (Witness, error) {
	data, err := read(path)
	if err != nil {
		return Witness{}, fmt.Errorf("read configuration %s: %w: %w", path, domain.ErrInvalid, err)
	}
	w := Witness{Log: Default().Log}
	var root yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&root); errors.Is(err, io.EOF) || err == nil && len(root.Content) == 0 {
		return Witness{}, Problems{{File: path, What: "empty", Mend: "holdfast witness init writes a witness' configuration"}}
	} else if err != nil {
		return Witness{}, syntaxProblem(path, err)
	}
	c := checker{file: path, lines: map[string]int{}}
	c.walk(root.Content[0], reflect.TypeFor[Witness](), "")
	if len(c.problems) == 0 {
		if err := root.Content[0].Decode(&w); err != nil {
			return Witness{}, syntaxProblem(path, err)
		}
		for _, p := range w.Validate() {
			p.File, p.Line = path, c.lineOf(p.Field)
			c.problems = append(c.problems, p)
		}
	}
	if len(c.problems) > 0 {
		slices.SortStableFunc(c.problems, func(a, b Problem) int { return a.Line - b.Line })
		return Witness{}, c.problems
	}
	base, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Witness{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	files := []*string{&w.DataDir, &w.RunDir, &w.Certificate, &w.Key}
	for i := range w.Clusters {
		files = append(files, &w.Clusters[i].CA)
	}
	for _, f := range files {
		if *f != "" && !filepath.IsAbs(*f) {
			*f = filepath.Join(base, *f)
		}
	}
	return w, nil
}

// Validate tells every mistake, with its field and its mend.
func (w Witness) Validate() []Problem {
	v := &validator{}
	if _, port, err := net.SplitHostPort(w.Listen); err != nil || port == "" {
		v.bad("listen", fmt.Sprintf("%q is no address", w.Listen), "write host:port")
	}
	for f, text := range map[string]string{"data_dir": w.DataDir, "certificate": w.Certificate, "key": w.Key} {
		if text == "" {
			v.bad(f, "missing", "holdfast witness init writes a file that has it")
		}
	}
	seen := map[string]string{}
	for i, c := range w.Clusters {
		f := fmt.Sprintf("clusters[%d]", i)
		v.token(f+".name", c.Name)
		unique(v, seen, f+".name", c.Name)
		if c.CA == "" {
			v.bad(f+".ca", "missing", "name a copy of secrets/trust/ca.pem of one of its sites")
		}
		for k, n := range map[string]int64{"groups": int64(c.Quota.Groups), "votes_per_second": int64(c.Quota.VotesPerSecond), "bytes_per_second": int64(c.Quota.BytesPerSecond), "connections": int64(c.Quota.Connections)} {
			if n < 0 {
				v.bad(f+".quota."+k, fmt.Sprintf("%d is no quota", n), "give a number above 0, or leave it out for the default")
			}
		}
	}
	return v.problems
}
