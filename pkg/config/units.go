package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// Duration is a time.Duration written with its unit: 500ms, 30s, 5m.
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v < 0 {
		return &fieldError{line: n.Line, problem: fmt.Sprintf("%q is not a duration", n.Value), mend: "write a number with its unit: 500ms, 30s, 5m or 1h"}
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML implements yaml.Marshaler.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// Size is a number of bytes written with its unit: 64MiB, 1GiB.
type Size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1}}

// ParseSize reads "64MiB", "1GiB", "4096B". A bare number has no unit and is refused.
func ParseSize(s string) (Size, error) {
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(strings.TrimSpace(s), u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(num), 10, 64)
		if err != nil || n < 0 || n > (1<<62)/u.bytes {
			break
		}
		return Size(n * u.bytes), nil
	}
	return 0, fmt.Errorf("%q is not a size: write a whole number with its unit: 512B, 4KiB, 64MiB, 1GiB or 2TiB", s)
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *Size) UnmarshalYAML(n *yaml.Node) error {
	v, err := ParseSize(n.Value)
	if err != nil {
		return &fieldError{line: n.Line, problem: fmt.Sprintf("%q is not a size", n.Value), mend: "write a whole number with its unit: 4KiB, 64MiB, 1GiB or 2TiB"}
	}
	*s = v
	return nil
}

// MarshalYAML implements yaml.Marshaler.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// String shows the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range []int{3, 2, 1, 0} {
		if b := sizeUnits[u].bytes; s != 0 && int64(s)%b == 0 {
			return strconv.FormatInt(int64(s)/b, 10) + sizeUnits[u].suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

type fieldError struct {
	line          int
	problem, mend string
}

func (e *fieldError) Error() string { return e.problem + ": " + e.mend }
