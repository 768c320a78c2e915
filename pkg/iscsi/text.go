package iscsi

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// Limits of a text negotiation (RFC 7143 section 6.1; a value may be longer than 255 bytes for CHAP and names).
const (
	MaxTextLen  = 64 << 10
	maxKeyLen   = 63
	maxValueLen = 8192
	maxPairs    = 256
)

// Pair is one key=value.
type Pair struct{ Key, Value string }

// Pairs is a text segment in its order.
type Pairs []Pair

// Get is the value of the first pair with that key.
func (t Pairs) Get(key string) (string, bool) {
	for _, p := range t {
		if p.Key == key {
			return p.Value, true
		}
	}
	return "", false
}

// Add appends a pair.
func (t *Pairs) Add(key, value string) { *t = append(*t, Pair{key, value}) }

// Encode is the wire form: key=value, each ended by a NUL.
func (t Pairs) Encode() []byte {
	var b bytes.Buffer
	for _, p := range t {
		b.WriteString(p.Key)
		b.WriteByte('=')
		b.WriteString(p.Value)
		b.WriteByte(0)
	}
	return b.Bytes()
}

// DecodePairs reads a whole text segment (the C bit's parts already joined). Trailing NULs are padding. It refuses,
// with ErrMalformed or ErrTooLong, what has no '=', an ill-formed or overlong key, an overlong value, too many pairs,
// and the same key twice.
func DecodePairs(b []byte) (Pairs, error) {
	if len(b) > MaxTextLen {
		return nil, fmt.Errorf("text segment of %d bytes: %w", len(b), ErrTooLong)
	}
	var out Pairs
	seen := make(map[string]bool)
	for item := range bytes.SplitSeq(b, []byte{0}) {
		if len(item) == 0 {
			continue
		}
		key, value, ok := strings.Cut(string(item), "=")
		if !ok || !validKey(key) || len(value) > maxValueLen || seen[key] || len(out) == maxPairs {
			return nil, fmt.Errorf("text pair %.64q: %w", item, ErrMalformed)
		}
		seen[key] = true
		out = append(out, Pair{key, value})
	}
	return out, nil
}

func validKey(k string) bool {
	if k == "" || len(k) > maxKeyLen {
		return false
	}
	for i := range len(k) {
		c := k[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && !(c >= '0' && c <= '9') && !strings.ContainsRune(".-+@_", rune(c)) {
			return false
		}
	}
	return true
}

// EncodeBinary is a binary value as a hexadecimal constant, 0x...
func EncodeBinary(b []byte) string { return "0x" + hex.EncodeToString(b) }

// DecodeBinary reads a hexadecimal (0x...) or base64 (0b...) constant of at most max bytes.
func DecodeBinary(s string, max int) ([]byte, error) {
	if len(s) < 2 || len(s) > 2+2*max {
		return nil, fmt.Errorf("binary value of %d characters: %w", len(s), ErrMalformed)
	}
	var b []byte
	var err error
	switch s[:2] {
	case "0x", "0X":
		digits := s[2:]
		if len(digits)%2 == 1 {
			digits = "0" + digits
		}
		b, err = hex.DecodeString(digits)
	case "0b", "0B":
		b, err = base64.StdEncoding.DecodeString(s[2:])
	default:
		err = ErrMalformed
	}
	if err != nil || len(b) > max {
		return nil, fmt.Errorf("binary value: %w", ErrMalformed)
	}
	return b, nil
}
