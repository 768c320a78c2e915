package target

import (
	"encoding/binary"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// What REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS says in its first byte.
const (
	canAbortTask    = 0x80
	canAbortTaskSet = 0x40
	canClearTaskSet = 0x10
	canResetUnit    = 0x08
	canResetTarget  = 0x02
)

func taskMgmtCommands() []*command {
	return []*command{{op: iscsi.MaintenanceIn, sa: iscsi.ReportTMFsSA, bare: true, always: true,
		usage: "\xa3\x1f\x80\x00\x00\x00\xff\xff\xff\xff\x00\x07", run: reportTaskMgmt}}
}

// reportTaskMgmt answers REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 section 6.36), with REPD as many bytes as that
// asks for; none has a time-out of its own.
func reportTaskMgmt(t *task) {
	cdb := &t.cmd.CDB
	alloc := binary.BigEndian.Uint32(cdb[6:])
	if alloc < 4 {
		t.fail(*invalidField(6))
		return
	}
	b := []byte{canAbortTask | canAbortTaskSet | canClearTaskSet | canResetUnit | canResetTarget, 0, 0, 0}
	if cdb[2]&0x80 != 0 {
		b[3] = 12
		b = append(b, make([]byte, 12)...)
	}
	t.answer(b, int(min(alloc, 1<<16)))
}
