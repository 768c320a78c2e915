// Package target is Holdfast's iSCSI target: it turns the PDUs of any initiator into commands to a Unit and the unit's
// results into answers. It speaks RFC 7143 at error recovery level 0 with one connection per session, and SPC-4 and
// SBC-4 for a direct access block device.
//
//	conn reader ──parse──> task ──Submit, in CmdSN order──> Unit
//	     │                                                    │ done(err), from any goroutine
//	     └── drains when no whole PDU waits ──> out queue <───┘ drained by the conn writer otherwise
//
// # What it promises
//
//   - An answer is queued only after the unit called done, and written only while the unit still may answer (Gated).
//   - A unit that reports ErrFenced ends the session at once, by reset: bytes that the kernel still holds are dropped.
//   - After RemoveTarget or DropSessions returned, no further answer leaves, and nothing is in flight in a unit.
//   - A session that is reinstated waits for what the old one had in flight before it is let in.
//   - A task management answer follows the end of every task that it names.
//
// # What it takes from the other side
//
// Lengths are checked against declared limits before memory is taken; the memory of all commands in flight is bounded
// by Config.MaxBufferedBytes, beyond which a command is answered TASK SET FULL. A stage of login that takes longer than
// Config.LoginTimeout, an answer that cannot be written within Config.WriteTimeout, and an initiator that is silent to
// two pings end the connection. A command numbered out of the window is ignored, and a gap, which one connection cannot
// have at level 0, ends the session.
//
// # How a reader waits
//
// In Go's poller, as a rule. That of a busy session whose commands are done at once waits in read(2) itself (see socket, and
// docs/adr/0029): half of the processors at most. Nobody waits in write(2) there, and a reset ends both at once.
//
// # Locks
//
// A unit's reservations are a value that commands look at without a lock; holding.changing, which may be held for as long as a
// Keeper takes to make them durable, orders those who change them and is above all others here.
//
// Server.mu > tgt.mu > session.mu > conn.qmu; conn.wmu (held while writing to the network) > session.mu; conn.wmu > socket.mu. A unit's done
// takes session.mu and conn.qmu only, so a stalled initiator never holds a unit up.
package target
