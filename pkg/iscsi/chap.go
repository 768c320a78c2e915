package iscsi

import (
	"crypto/md5" //nolint:gosec // CHAP in iSCSI is MD5 (RFC 7143 section 12.1.3, RFC 1994)
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"strconv"
)

// CHAP limits: the algorithm number of MD5, the shortest secret RFC 7143 section 9.2.1 allows without IPsec, and the
// longest challenge taken.
const (
	CHAPMD5          = "5"
	MinSecretLen     = 12
	MaxCHAPChallenge = 1024
	chapChallengeLen = 24
)

// Challenge is one CHAP challenge: CHAP_I and CHAP_C.
type Challenge struct {
	ID    byte
	Value []byte
}

// NewChallenge draws a challenge.
func NewChallenge() Challenge {
	b := make([]byte, 1+chapChallengeLen)
	rand.Read(b) // never fails since Go 1.24
	return Challenge{ID: b[0], Value: b[1:]}
}

// Add appends CHAP_I and CHAP_C to a text segment.
func (c Challenge) Add(t *Pairs) {
	t.Add("CHAP_I", strconv.Itoa(int(c.ID)))
	t.Add("CHAP_C", EncodeBinary(c.Value))
}

// ParseChallenge reads CHAP_I and CHAP_C.
func ParseChallenge(t Pairs) (Challenge, error) {
	is, ok1 := t.Get("CHAP_I")
	cs, ok2 := t.Get("CHAP_C")
	id, err := strconv.ParseUint(is, 0, 8)
	if !ok1 || !ok2 || err != nil {
		return Challenge{}, fmt.Errorf("CHAP challenge: %w", ErrMalformed)
	}
	v, err := DecodeBinary(cs, MaxCHAPChallenge)
	if err != nil || len(v) == 0 {
		return Challenge{}, fmt.Errorf("CHAP challenge: %w", ErrMalformed)
	}
	return Challenge{ID: byte(id), Value: v}, nil
}

// Response is MD5 over the identifier, the secret and the challenge (RFC 1994 section 4.1).
func (c Challenge) Response(secret []byte) []byte {
	h := md5.New() //nolint:gosec // see the import
	h.Write([]byte{c.ID})
	h.Write(secret)
	h.Write(c.Value)
	return h.Sum(nil)
}

// Verify reports whether response, in its text form (CHAP_R), answers c with secret; in constant time.
func (c Challenge) Verify(response string, secret []byte) bool {
	got, err := DecodeBinary(response, md5.Size)
	return err == nil && subtle.ConstantTimeCompare(got, c.Response(secret)) == 1
}
