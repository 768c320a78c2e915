// Package sealed is how the storage of a passive voter holds a record as bytes: a line with a magic word and the CRC32C of what follows,
// in hexadecimal, and then that. What was cut short or changed does not open.
package sealed

import (
	"bytes"
	"fmt"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func head(magic string, body []byte) string {
	return fmt.Sprintf("%s %08x", magic, crc32.Checksum(body, castagnoli))
}

// Seal gives the bytes that hold a body. The magic word has no line break.
func Seal(magic string, body []byte) []byte {
	return fmt.Appendf(nil, "%s\n%s", head(magic, body), body)
}

// Open gives the body; false when these are not the bytes that Seal gave for it and the magic word.
func Open(magic string, data []byte) ([]byte, bool) {
	first, body, _ := bytes.Cut(data, []byte("\n"))
	return body, string(first) == head(magic, body)
}
