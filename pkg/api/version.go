package api

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Version is the version of what services and sites say to one another: subjects, requests, records and frames. Within a major
// version things are only added, so that services of different minor versions work together; of different major versions they do
// not, and refuse one another.
type Version struct{ Major, Minor int }

// Protocol is the version this program speaks.
func Protocol() Version { return Version{Major: 1, Minor: 0} }

// String is major.minor.
func (v Version) String() string { return strconv.Itoa(v.Major) + "." + strconv.Itoa(v.Minor) }

// ParseVersion reads what String writes. The error wraps domain.ErrInvalid.
func ParseVersion(s string) (Version, error) {
	major, minor, ok := strings.Cut(s, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if !ok || errA != nil || errB != nil || a < 1 || b < 0 {
		return Version{}, fmt.Errorf("protocol version %q: %w: want major.minor, as in 1.0", s, domain.ErrInvalid)
	}
	return Version{a, b}, nil
}

// Accepts says whether v works with a peer that said theirs; it names both versions and the mend when not, wrapping
// domain.ErrRefused. A peer that says nothing is older than versions, or an outsider's client, and is accepted.
func (v Version) Accepts(theirs string) error {
	if theirs == "" {
		return nil
	}
	t, err := ParseVersion(theirs)
	switch {
	case err != nil:
		return err
	case t.Major > v.Major:
		return fmt.Errorf("the peer speaks protocol %s, this service %s: %w: major versions do not work together: upgrade this service", t, v, domain.ErrRefused)
	case t.Major < v.Major:
		return fmt.Errorf("the peer speaks protocol %s, this service %s: %w: major versions do not work together: upgrade the peer", t, v, domain.ErrRefused)
	}
	return nil
}
