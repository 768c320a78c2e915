package domain

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Transport is how changes travel to a target whose writes do not wait for it, and how the data of a resync travels to any.
// The zero value sends as fast as the link takes it, uncompressed.
type Transport struct {
	RateLimit   Rate         `json:"rate_limit,omitempty" yaml:"rate_limit"` // where no window of Schedule applies
	Schedule    []RateWindow `json:"schedule,omitempty" yaml:"schedule"`     // the first that applies counts
	Compression Compression  `json:"compression,omitempty" yaml:"compression"`
	// Window is how much may be on its way, sent and not acknowledged by the target; 0: DefaultWindow. What is larger goes alone.
	Window Bytes `json:"window,omitempty" yaml:"window"`
}

// Bounds of a window.
const (
	// MinWindow takes a bundle of small writes, and the least that a resync sends at once.
	MinWindow Bytes = 256 << 10
	// DefaultWindow is also the largest: a target's pipe holds twice as much.
	DefaultWindow Bytes = 16 << 20
)

// RateWindow is a rate for a part of the day, in the time zone of the machine that sends.
type RateWindow struct {
	Days      []Day `json:"days,omitempty" yaml:"days"` // on which it begins; none: every day
	From      Clock `json:"from" yaml:"from"`
	To        Clock `json:"to" yaml:"to"` // exclusive; at or before From it is on the next day
	RateLimit Rate  `json:"rate_limit" yaml:"rate_limit"`
}

// Rate is bytes a second; 0 is no limit. As text it has a unit: 10MiB.
type Rate int64

// MinRate is the lowest limit that makes sense: a frame may have 6 MiB.
const MinRate Rate = 16 << 10

// Bytes is an amount of data. As text it has a unit: 4MiB.
type Bytes int64

// byteUnits are the units of bytes as text, the largest first.
var byteUnits = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// parseBytes reads 512KiB, 10MiB, 1GiB or 0.
func parseBytes(s string) (int64, bool) {
	for _, u := range byteUnits {
		num, ok := strings.CutSuffix(s, u.suffix)
		n, err := strconv.ParseInt(num, 10, 64)
		if ok && err == nil && n >= 0 && n <= (1<<50)/u.bytes {
			return n * u.bytes, true
		}
	}
	return 0, s == "0"
}

// bytesText is n with the largest unit that divides it, as parseBytes reads it.
func bytesText(n int64) string {
	for _, u := range byteUnits {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10)
}

// UnmarshalText reads 512KiB, 10MiB, 1GiB or 0.
func (r *Rate) UnmarshalText(b []byte) error {
	n, ok := parseBytes(string(b))
	if !ok {
		return fmt.Errorf("%q is no rate: %w: write bytes a second with their unit: 512KiB, 10MiB or 1GiB, or 0 for no limit", b, ErrInvalid)
	}
	*r = Rate(n)
	return nil
}

// UnmarshalText reads 512KiB, 10MiB, 1GiB or 0.
func (s *Bytes) UnmarshalText(b []byte) error {
	n, ok := parseBytes(string(b))
	if !ok {
		return fmt.Errorf("%q is no amount of data: %w: write bytes with their unit: 512KiB, 4MiB or 1GiB, or 0 for the default", b, ErrInvalid)
	}
	*s = Bytes(n)
	return nil
}

// UnmarshalJSON reads a number of bytes.
func (s *Bytes) UnmarshalJSON(b []byte) error {
	var n int64
	if err := json.Unmarshal(b, &n); err != nil || n < 0 {
		return fmt.Errorf("%s bytes: %w: give a number", b, ErrInvalid)
	}
	*s = Bytes(n)
	return nil
}

// String is the amount with the largest unit that divides it, as UnmarshalText reads it.
func (s Bytes) String() string { return bytesText(int64(s)) }

// UnmarshalJSON reads a number of bytes a second.
func (r *Rate) UnmarshalJSON(b []byte) error {
	var n int64
	if err := json.Unmarshal(b, &n); err != nil || n < 0 {
		return fmt.Errorf("rate %s: %w: give a number of bytes a second", b, ErrInvalid)
	}
	*r = Rate(n)
	return nil
}

// Day is a day of the week: mon to sun.
type Day string

// Days lists the days of the week, as time.Weekday counts them.
func Days() []Day { return []Day{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} }

// Clock is a time of day, 00:00 to 24:00.
type Clock string

// Minutes is how many minutes after midnight it is. The error wraps ErrInvalid.
func (c Clock) Minutes() (int, error) {
	h, m, ok := strings.Cut(string(c), ":")
	hours, err1 := strconv.Atoi(h)
	minutes, err2 := strconv.Atoi(m)
	if !ok || len(c) != 5 || err1 != nil || err2 != nil || hours < 0 || minutes < 0 || minutes > 59 || hours*60+minutes > 24*60 {
		return 0, fmt.Errorf("%q is no time of day: %w: write 00:00 to 24:00", string(c), ErrInvalid)
	}
	return hours*60 + minutes, nil
}

// Compression is how what is sent is made smaller.
type Compression string

// The compressions. The empty one is CompressionNone.
const (
	CompressionNone Compression = "none"
	// CompressionS2 is for links: about 1 GB/s a core, and left out where it does not help.
	CompressionS2 Compression = "s2"
)

// Rate is the limit at a time, in that time's zone. A window with a time that is none never applies.
func (t Transport) Rate(at time.Time) Rate {
	for _, w := range t.Schedule {
		if w.Window().Has(at) {
			return w.RateLimit
		}
	}
	return t.RateLimit
}

// WindowBytes is how much may be on its way.
func (t Transport) WindowBytes() Bytes { return cmp.Or(t.Window, DefaultWindow) }

// Window is when the rate holds.
func (w RateWindow) Window() Window { return Window{Days: w.Days, From: w.From, To: w.To} }

// TransportChange is what of a Transport is to be another; what is nil stays.
type TransportChange struct {
	RateLimit   *Rate         `json:"rate_limit,omitempty"`
	Schedule    *[]RateWindow `json:"schedule,omitempty"` // all windows; an empty list: none
	Compression *Compression  `json:"compression,omitempty"`
	Window      *Bytes        `json:"window,omitempty"`
}

// ParseRateWindow reads a window as people write it in one line: [DAY[,DAY...]@]HH:MM-HH:MM RATE. The error wraps ErrInvalid.
func ParseRateWindow(text string) (RateWindow, error) {
	when, rate, _ := strings.Cut(text, " ")
	w, err := ParseWindow(when)
	if err != nil {
		return RateWindow{}, err
	}
	out := RateWindow{Days: w.Days, From: w.From, To: w.To}
	return out, out.RateLimit.UnmarshalText([]byte(strings.TrimSpace(rate)))
}

// Equal reports whether both are the same.
func (t Transport) Equal(o Transport) bool {
	return t.RateLimit == o.RateLimit && t.compression() == o.compression() && t.WindowBytes() == o.WindowBytes() && slices.EqualFunc(t.Schedule, o.Schedule, func(a, b RateWindow) bool {
		return a.From == b.From && a.To == b.To && a.RateLimit == b.RateLimit && slices.Equal(a.Days, b.Days)
	})
}

// String is what differs from as fast and as plain as can be, each part after a comma.
func (t Transport) String() string {
	var out strings.Builder
	if t.RateLimit != 0 {
		fmt.Fprintf(&out, ", at most %s a second", t.RateLimit)
	}
	for _, w := range t.Schedule {
		fmt.Fprintf(&out, ", %s %s", w.Window(), w.RateLimit)
	}
	if c := t.compression(); c != CompressionNone {
		fmt.Fprintf(&out, ", compression %s", c)
	}
	if n := t.WindowBytes(); n != DefaultWindow {
		fmt.Fprintf(&out, ", window %s", n)
	}
	return out.String()
}

// String is the rate with the largest unit that divides it, as UnmarshalText reads it.
func (r Rate) String() string { return bytesText(int64(r)) }

func (t Transport) compression() Compression { return cmp.Or(t.Compression, CompressionNone) }

// TransportTo is how a primary at `from` sends to `to`: as the receiving target says, or on the way home as the sending one.
func (g Group) TransportTo(from, to SiteID) Transport {
	at := to
	if to == g.Home {
		at = from
	}
	for _, t := range g.Targets {
		if t.Site == at {
			return t.Transport
		}
	}
	return Transport{}
}
