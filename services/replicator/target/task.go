package target

import (
	"errors"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/iscsi"
)

// maxTransfer is the most data one command may move, in bytes: MAXIMUM TRANSFER LENGTH of the Block Limits page.
const maxTransfer = 8 << 20

type taskState byte

const (
	receiving taskState = iota // waits for data from the initiator
	running                    // with the unit, or being answered
	parked                     // waits for what goes on without it
)

// burst is an R2T that was sent and not yet fully answered.
type burst struct {
	ttt      uint32
	end      int // offset in the command's buffer
	nextData uint32
}

// task is one SCSI command from its arrival to its answer. state, aborted, waiters, data and got of a receiving task
// are guarded by session.mu; the rest belongs to whoever moves the task on: the reader, the unit, the sender.
type task struct {
	s    *session
	lun  *lun
	spec *command
	cmd  iscsi.SCSICommand

	state   taskState
	aborted bool
	waiters []*settle

	// Data from the initiator: data has room for what the command needs and the initiator said it will send.
	outLen      int // what the CDB asks for
	data        []byte
	buf         *iscsi.Buffer
	got         int
	unsolicited bool // more unsolicited data will follow
	dataSN      uint32
	asked       int // offset up to which R2Ts were sent
	r2tSN       uint32
	bursts      []burst
	charge      int64
	failed      bool // status and sense are decided; only the rest of the unsolicited data is awaited
	alone       bool // for the first command that it gives the unit: see Command.Alone

	arrived time.Duration // on the server's clock, as when the connection was read
	lba     uint64
	blocks  uint32

	at     *visit // of a copy, where its command is now
	guests []*lun // other units than its own that a copy was at
	uc     Command
	next   func(error) // what to do when the unit is done; nil completes the task
	doneFn func(error)

	status iscsi.Status
	sense  iscsi.Sense
	in     []byte // data for the initiator
	inBuf  *iscsi.Buffer
}

func (s *session) newTask() *task {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.free); n > 0 {
		t := s.free[n-1]
		s.free = s.free[:n-1]
		return t
	}
	t := &task{s: s}
	t.doneFn = t.done
	return t
}

// recycle takes a task back after its answer was written or dropped.
func (t *task) recycle() {
	t.releaseMemory()
	s := t.s
	*t = task{s: s, doneFn: t.doneFn, bursts: t.bursts[:0]}
	s.mu.Lock()
	s.free = append(s.free, t)
	s.mu.Unlock()
}

func (t *task) releaseMemory() {
	t.buf.Release()
	t.inBuf.Release()
	t.buf, t.inBuf, t.data, t.in = nil, nil, nil, nil
	t.s.giveBack(t)
}

// alloc takes n bytes from the server's budget.
func (t *task) alloc(n int) (*iscsi.Buffer, bool) {
	if !t.pay(n) {
		return nil, false
	}
	return t.s.srv.pool.Get(n), true
}

func (t *task) pay(n int) bool {
	s := t.s
	all, mine := s.srv.buffered.Add(int64(n)), s.share.Add(int64(n))
	t.charge += int64(n)
	if all <= s.srv.cfg.MaxBufferedBytes && mine <= s.srv.cfg.MaxBufferedBytesPerPeer {
		return true
	}
	t.charge -= int64(n)
	s.srv.buffered.Add(-int64(n))
	s.share.Add(-int64(n))
	return false
}

// giveBack returns what a task took of the budgets.
func (s *session) giveBack(t *task) {
	s.srv.buffered.Add(-t.charge)
	s.share.Add(-t.charge)
	t.charge = 0
}

// command starts a task for a SCSI command PDU.
func (s *session) command(p *iscsi.PDU) error {
	cmd := iscsi.ParseSCSICommand(p)
	if err := s.checkCommand(&cmd, p); err != nil {
		return err
	}
	if badCommand(&cmd, p) {
		s.leave(&cmd)
		s.conn.send(newReject(p, iscsi.RejectInvalidPDUField), 0)
		return nil
	}
	if reason := s.roomFor(&cmd); reason != 0 {
		s.leave(&cmd)
		s.conn.send(newReject(p, reason), 0)
		return nil
	}
	t := s.newTask()
	t.cmd, t.arrived = cmd, s.conn.readAt
	t.unsolicited = cmd.Write && !cmd.Final
	t.immediateData(p, t.prepare())
	s.mu.Lock()
	if cmd.Immediate {
		s.immediate++
	}
	s.tasks[cmd.ITT] = t
	alone := len(s.tasks) == 1
	s.mu.Unlock()
	t.alone = alone && cmd.Final && s.conn.answersKnown(cmd.ExpStatSN)
	t.proceed()
	return nil
}

// leave gives back the place that a command took with its number, when it becomes no task.
func (s *session) leave(cmd *iscsi.SCSICommand) {
	if cmd.Immediate {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
}

// roomFor is the reason to reject a command before it becomes a task, 0 for none.
func (s *session) roomFor(cmd *iscsi.SCSICommand) byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.tasks[cmd.ITT] != nil:
		return iscsi.RejectTaskInProgress
	case cmd.Immediate && s.immediate >= s.srv.cfg.QueueDepth:
		return iscsi.RejectImmediate
	}
	return 0
}

// badCommand reports a header that contradicts itself: no more data is announced for a command that sends none, a reserved
// task attribute, additional segments that do not fill their length (RFC 7143 sections 11.2.2 and 11.3.1).
func badCommand(cmd *iscsi.SCSICommand, p *iscsi.PDU) bool {
	return !cmd.Final && !cmd.Write || cmd.Attr > iscsi.AttrACA || len(p.AHS) > 0 && !iscsi.ValidAHS(p.AHS)
}

// checkCommand enforces what was negotiated about the data that comes with a command.
func (s *session) checkCommand(cmd *iscsi.SCSICommand, p *iscsi.PDU) error {
	n := len(p.Data)
	switch {
	case cmd.ITT == iscsi.NoTag:
		return fmt.Errorf("command with the reserved tag: %w", errProtocol)
	case n > 0 && (!cmd.Write || !s.par.immediateData || n > s.par.firstBurst || uint64(n) > uint64(cmd.EDTL)):
		return fmt.Errorf("%d bytes of immediate data: %w", n, errProtocol)
	case cmd.Write && !cmd.Final && s.par.initialR2T:
		return fmt.Errorf("unsolicited data announced: %w", errProtocol)
	}
	return nil
}

// prepare finds the unit and the command and decides how much data is needed from the initiator.
func (t *task) prepare() (want int) {
	if s := t.lookup(); s != nil {
		t.refuse(*s)
	}
	if t.failed {
		return 0
	}
	want = min(t.outLen, t.edtl(t.cmd.Write))
	if want > 0 && !t.pay(want) {
		t.status, t.failed = iscsi.StatusTaskSetFull, true
		return 0
	}
	return want
}

// edtl is the expected data transfer length in a direction the command announced, 0 in one it did not.
func (t *task) edtl(announced bool) int {
	if !announced {
		return 0
	}
	return int(min(t.cmd.EDTL, 1<<31-1))
}

// immediateData takes the data that came with the command, by reference when it is all there is.
func (t *task) immediateData(p *iscsi.PDU, want int) {
	t.got = len(p.Data)
	if want == 0 {
		return
	}
	if t.got == want {
		t.data, t.buf = p.Data, p.Take()
		return
	}
	t.buf = t.s.srv.pool.Get(want)
	t.data = t.buf.Bytes(want)
	copy(t.data, p.Data)
}

// proceed asks for more data, waits for it, or runs the command.
func (t *task) proceed() {
	switch {
	case t.unsolicited:
	case !t.failed && t.got < len(t.data):
		t.askMore()
	case t.start():
		t.run()
	}
}

// start moves a task from receiving to running; false when it was aborted meanwhile.
func (t *task) start() bool {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	if t.aborted {
		return false
	}
	t.state = running
	return true
}

func (t *task) run() {
	if !t.failed {
		if s := t.lun.sanitary(t.spec); s != nil { // a sanitize began while its data came
			t.refuse(*s)
		}
	}
	if !t.failed && t.withoutMedium() { // ejected while its data came
		t.refuse(*noMedium())
	}
	if !t.failed && t.lun != nil && t.lun.conflicts(t) {
		// Reserved, or preempted, since it was looked up. From here on whoever preempts finds the task and waits for it.
		t.status, t.failed = iscsi.StatusReservationConflict, true
	}
	if t.failed {
		t.finish()
		return
	}
	t.spec.run(t)
}

// askMore sends as many R2Ts as were negotiated, each for at most MaxBurstLength.
func (t *task) askMore() {
	t.asked = max(t.asked, t.got)
	for len(t.bursts) < t.s.par.maxR2T && t.asked < len(t.data) {
		n := min(t.s.par.maxBurst, len(t.data)-t.asked)
		r := iscsi.R2T{LUN: t.cmd.LUN, ITT: t.cmd.ITT, TTT: t.s.nextTTT(), R2TSN: t.r2tSN, Offset: uint32(t.asked), Length: uint32(n)}
		t.r2tSN++
		t.asked += n
		t.bursts = append(t.bursts, burst{ttt: r.TTT, end: t.asked})
		t.s.conn.send(t.s.newR2T(r), 0)
	}
}

// dataOut takes data for a task, unsolicited or asked for. Data for a task that is gone is dropped: it may have been on
// its way when the task was aborted.
func (s *session) dataOut(p *iscsi.PDU) error {
	d := iscsi.ParseDataOut(p)
	s.mu.Lock()
	t := s.tasks[d.ITT]
	if t == nil || t.aborted || t.state != receiving {
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	if due := t.dataNumber(d); d.DataSN != due || int64(d.Offset) != int64(t.got) {
		// A sequence error: the task ends, as there is no recovery at level 0 (RFC 7143 section 7.9). What is still on its
		// way for it will find no task.
		if t.refuse(iscsi.Sense{Key: iscsi.SenseAborted, ASC: iscsi.ASCProtocolCRC}); t.start() {
			t.finish()
		}
		return nil
	}
	if err := t.checkData(d, len(p.Data)); err != nil {
		s.conn.send(newReject(p, iscsi.RejectProtocolError), 0)
		return fmt.Errorf("data at %d for task %#x: %w", d.Offset, d.ITT, err)
	}
	if t.got < len(t.data) && len(p.Data) > 0 && &p.Data[0] != &t.data[t.got] {
		copy(t.data[t.got:], p.Data)
	}
	s.mu.Lock()
	t.got += len(p.Data)
	s.mu.Unlock()
	if d.TTT == iscsi.NoTag {
		t.unsolicited = !d.Final
	} else if d.Final {
		t.bursts = append(t.bursts[:0], t.bursts[1:]...)
	}
	if d.Final {
		t.proceed()
	}
	return nil
}

// dataNumber is the DataSN that is due in the sequence d belongs to.
func (t *task) dataNumber(d iscsi.DataOut) uint32 {
	if d.TTT == iscsi.NoTag {
		return t.dataSN
	}
	if len(t.bursts) > 0 {
		return t.bursts[0].nextData
	}
	return 0
}

// checkData enforces limits; data comes in order (DataPDUInOrder and DataSequenceInOrder).
func (t *task) checkData(d iscsi.DataOut, n int) error {
	end := t.got + n
	if d.TTT == iscsi.NoTag {
		limit := min(t.s.par.firstBurst, t.edtl(true))
		if !t.unsolicited || end > limit {
			return fmt.Errorf("unsolicited data up to %d of %d: %w", end, limit, errProtocol)
		}
		t.dataSN++
		return nil
	}
	if t.unsolicited || len(t.bursts) == 0 || t.bursts[0].ttt != d.TTT {
		return fmt.Errorf("transfer tag %#x was not given: %w", d.TTT, errProtocol)
	}
	b := &t.bursts[0]
	if end > b.end || d.Final != (end == b.end) {
		return fmt.Errorf("data up to %d of %d: %w", end, b.end, errProtocol)
	}
	b.nextData++
	return nil
}

// submit gives the unit one command; next, when not nil, goes on after it.
func (t *task) submit(c Command, next func(error)) { t.submitTo(t.lun, c, next) }

// submitTo is submit to any unit of the target.
func (t *task) submitTo(l *lun, c Command, next func(error)) {
	t.uc, t.next = c, next
	t.uc.Alone, t.alone = t.alone, false
	t.uc.Session = uint64(t.s.tsih)
	l.unit.Submit(&t.uc, t.doneFn)
}

// done is the unit's end of a command.
func (t *task) done(err error) {
	err = t.visited(err)
	if err != nil && errors.Is(err, ErrFenced) {
		t.s.conn.kill("unit is fenced")
		t.s.mu.Lock()
		t.aborted = true
		t.s.mu.Unlock()
		t.finish()
		return
	}
	if next := t.next; next != nil {
		t.next = nil
		next(err)
		return
	}
	t.complete(err)
}

// complete answers with the result of the unit.
func (t *task) complete(err error) {
	if err != nil {
		t.fail(senseOf(err, t.uc.Op))
		return
	}
	t.finish()
}

// refuse decides the answer; the task still takes the unsolicited data that is on its way.
func (t *task) refuse(s iscsi.Sense) {
	t.status, t.sense, t.failed = iscsi.StatusCheckCondition, s, true
}

// fail answers CHECK CONDITION.
func (t *task) fail(s iscsi.Sense) {
	t.refuse(s)
	t.finish()
}

// answer gives data to the initiator, at most alloc bytes of it, and GOOD.
func (t *task) answer(data []byte, alloc int) {
	t.in = data[:min(len(data), alloc)]
	t.finish()
}

// finish hands the task to the sender, or ends it without an answer when it was aborted.
func (t *task) finish() {
	s := t.s
	s.mu.Lock()
	if t.aborted { // which it stays: its memory is back before anyone can see that it ended
		s.mu.Unlock()
		t.measureAborted()
		t.releaseMemory()
		s.mu.Lock()
	}
	delete(s.tasks, t.cmd.ITT)
	if t.cmd.Immediate {
		s.immediate--
	} else {
		s.inFlight--
	}
	waiters, settled := t.waiters, s.settledNow()
	if !t.aborted {
		// Under mu, so that the answer to a task management function that no longer finds the task comes after this one.
		s.conn.send(t, len(t.in))
	}
	s.mu.Unlock()
	for _, w := range waiters {
		w.settle()
	}
	if settled {
		close(s.settled)
	}
}

func (t *task) discard() {
	t.measureAborted()
	t.recycle()
}
