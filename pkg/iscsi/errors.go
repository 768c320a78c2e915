package iscsi

import "errors"

// The errors of the codec. A reader that returned one of them has lost its place in the stream, except ErrDataDigest:
// the PDU was read whole and the next one may be read.
var (
	// ErrTooLong is a length beyond the limit the receiver declared.
	ErrTooLong = errors.New("iscsi: PDU longer than the declared limit")
	// ErrHeaderDigest is a header whose CRC32C does not match.
	ErrHeaderDigest = errors.New("iscsi: header digest mismatch")
	// ErrDataDigest is a data segment whose CRC32C does not match.
	ErrDataDigest = errors.New("iscsi: data digest mismatch")
	// ErrMalformed is a PDU or a text segment that does not parse.
	ErrMalformed = errors.New("iscsi: malformed")
)
