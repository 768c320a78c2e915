package target

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
)

// errTransportID is a TransportID that is not one of an iSCSI initiator.
var errTransportID = errors.New("not an iSCSI TransportID")

// transportID is a nexus as a TransportID with the ISID (SPC-4 section 7.6.4.6).
func transportID(nexus string) []byte {
	name := append([]byte(nexus), 0)
	name = append(name, make([]byte, -len(name)&3)...)
	return append([]byte{0x45, 0, byte(len(name) >> 8), byte(len(name))}, name...)
}

// parseTransportID takes the first TransportID of b. Its name is a nexus, or, when port is false, an initiator whose every
// port is meant.
func parseTransportID(b []byte) (name string, port bool, rest []byte, err error) {
	if len(b) < 4 || b[0]&0x3f != 0x05 {
		return "", false, nil, errTransportID
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < 20 || n%4 != 0 || len(b) < 4+n {
		return "", false, nil, errTransportID
	}
	text, rest := b[4:4+n], b[4+n:]
	end := bytes.IndexByte(text, 0)
	if end <= 0 {
		return "", false, nil, errTransportID
	}
	name = strings.ToLower(string(text[:end]))
	_, isid, found := strings.Cut(name, ",i,0x")
	switch format := b[0] >> 6; {
	case format == 0 && !found && len(name) <= 223:
		return name, false, rest, nil
	case format == 1 && found && len(isid) == 12 && strings.Trim(isid, "0123456789abcdef") == "":
		return name, true, rest, nil
	}
	return "", false, nil, errTransportID
}
