// Package nbd is a second door to a target.Unit: the network block device protocol, as QEMU, libnbd and the Linux kernel
// speak it. It knows the fixed newstyle handshake, TLS, simple and structured replies, and base:allocation; what it leaves out
// is listed in docs/operations/nbd.md.
//
//	conn reader ──handshake──> export
//	conn reader ──request──> Submit, in the order of arrival ──> Unit
//	     │                                                         │ done(err), from any goroutine
//	     └── drains when no whole request waits ──> out queue <────┘ drained by the conn writer otherwise
//
// # What it promises
//
//   - An answer is queued only after the unit called done, and written only while the unit still may answer (target.Gated,
//     asked before each write to the network, which carries at most maxFlush bytes).
//   - A unit that reports ErrFenced ends the connection at once, by reset, without an answer.
//   - After RemoveExport returned, no further answer leaves, and nothing is in flight in the unit.
//   - A disconnect request is obeyed after everything that was asked before it has been answered.
//   - A flush covers the writes that were answered on every connection, which is what CAN_MULTI_CONN tells clients: a unit's
//     OpFlush makes durable all whose done was called, wherever it came from.
//   - Nothing that was read in the clear counts after STARTTLS, and nothing sent in the clear is taken for TLS.
//
// # What it takes from the other side
//
// Lengths are checked before memory is taken. The memory of all requests in flight is bounded by Config.MaxBufferedBytes, and
// that of one connection by half of it: past these, and past QueueDepth requests, a connection is not read from until others
// have ended, since the protocol would have a client take a refusal for a failed disk. A handshake that takes longer than
// Config.HandshakeTimeout, data that was announced and does not come, and an answer that cannot be written end the connection.
// A write of more than maxPayload bytes ends it too: what follows could not be told from the next request.
//
// # Locks
//
// Server.mu and export.mu are held for a look-up only. conn.wmu (held while writing to the network) > conn.mu. A unit's done
// takes conn.mu only, so a stalled client never holds a unit up.
package nbd
