package target

import (
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// Class groups commands by what they ask of a volume.
type Class byte

// The classes. ClassWrite are all that change the volume's blocks.
const (
	ClassRead Class = iota
	ClassWrite
	ClassFlush
	ClassOther
	Classes = iota
)

// Outcome is how a command ended.
type Outcome byte

// The outcomes. OutcomeRefused is a status without sense (busy, task set full, reservation conflict); OutcomeAborted got no
// answer: it was aborted, or its session ended.
const (
	OutcomeGood Outcome = iota
	OutcomeCheckCondition
	OutcomeRefused
	OutcomeAborted
	Outcomes = iota
)

// Meter is told of every command of a unit. Observe is called in the path of each command, from several goroutines: it must
// neither wait nor allocate. bytes were moved; took is from the command's arrival to its answer being written, 0 for one
// that was aborted.
type Meter interface {
	Observe(class Class, outcome Outcome, bytes int, took time.Duration)
}

// Metered is a unit whose commands are measured. Meter is asked once, when the unit is added; nil measures nothing.
type Metered interface{ Meter() Meter }

func classOf(op byte) Class {
	switch op {
	case iscsi.Read6, iscsi.Read10, iscsi.Read12, iscsi.Read16:
		return ClassRead
	case iscsi.Write6, iscsi.Write10, iscsi.Write12, iscsi.Write16, iscsi.WriteVerify10, iscsi.WriteVerify12, iscsi.WriteVerify16,
		iscsi.WriteSame10, iscsi.WriteSame16, iscsi.Unmap, iscsi.CompareAndWrite, iscsi.OrWrite, iscsi.WriteAtomic16:
		return ClassWrite
	case iscsi.SyncCache10, iscsi.SyncCache16:
		return ClassFlush
	}
	return ClassOther
}

// measure tells the unit's meter how the task ended. now is shared by the answers of one batch, and the arrival by the
// commands that were read at once, so that the clock is not read for each.
func (t *task) measure(now time.Duration) {
	if t.lun == nil || t.lun.meter == nil {
		return
	}
	outcome := OutcomeGood
	bytes := 0
	class := classOf(t.cmd.CDB[0])
	switch t.status {
	case iscsi.StatusGood:
		if class == ClassRead {
			bytes = len(t.in)
		} else if class == ClassWrite {
			bytes = len(t.data)
		}
	case iscsi.StatusCheckCondition:
		outcome = OutcomeCheckCondition
	default:
		outcome = OutcomeRefused
	}
	t.lun.meter.Observe(class, outcome, bytes, now-t.arrived)
}

// measureAborted tells the unit's meter of a task that gets no answer.
func (t *task) measureAborted() {
	if t.lun != nil && t.lun.meter != nil {
		t.lun.meter.Observe(classOf(t.cmd.CDB[0]), OutcomeAborted, 0, 0)
	}
}
