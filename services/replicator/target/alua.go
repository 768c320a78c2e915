package target

import (
	"encoding/binary"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Each target has one port, alone in its group. The copies of a volume at two sites are two units with different
// identifiers, not two paths to one, so a group never has another site's port in it.
const (
	relativePort = 1 // relative target port identifier
	portGroup    = 1 // target port group

	reportPortGroupsSA = 0x0a // of MAINTENANCE IN

	tpgsImplicit = 0x10 // of INQUIRY byte 5: the target decides about access states, initiators may not set them
)

// Asymmetric access states (SPC-4 section 5.16.2.4). A unit is served while its site has the right to it, and then it is
// active and optimized. When the right is lost the sessions are dropped and the target is gone: no command can find
// another state, so no other is offered.
const (
	accessOptimized          = 0x00
	accessOptimizedSupported = 0x01
)

func aluaCommands() []*command {
	return []*command{{op: iscsi.MaintenanceIn, sa: reportPortGroupsSA, bare: true,
		usage: "\xa3\xff\x00\x00\x00\x00\xff\xff\xff\xff\x00\x07", run: reportPortGroups}}
}

// reportPortGroups answers REPORT TARGET PORT GROUPS (SPC-4 section 6.37), with the length only or the extended header.
func reportPortGroups(t *task) {
	cdb := &t.cmd.CDB
	var b []byte
	switch cdb[1] >> 5 {
	case 0:
		b = make([]byte, 4)
	case 1:
		b = []byte{0, 0, 0, 0, 0x10, 0, 0, 0} // no transition takes time
	default:
		t.fail(*invalidField(1))
		return
	}
	b = append(b, accessOptimized, accessOptimizedSupported, 0, portGroup, 0, 0, 0, 1)
	b = append(b, 0, 0, 0, relativePort)
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	t.answer(b, int(min(binary.BigEndian.Uint32(cdb[6:]), 1<<16)))
}
