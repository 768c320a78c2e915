// Package line is a TCP connection from a primary's sender to a target's receiver, one for each group and epoch. Frames that a
// write waits for go over it, and where the target's journal stands comes back.
//
//	sender ──Send──> one write ──> socket ──> one read ──> take ──> journal
//	acked <── one read <── socket <── one write <──────────── Ack <──┘
//
// Nothing stands between the two ends: a message is taken, and its ack is written, by the goroutine that read it.
//
// # Who may send
//
// Whoever shows a token may send to the receiver that it was made for (Server.Open). A token is 32 random bytes. The bus carries it,
// in the answer to a rejoin, and the bus knows who may ask for that; so a token says all that a right would. It ends with its receiver.
//
// With credentials the connection is TLS, and each end proves to be a replicator of the installation: the target that of the site
// the sender means to reach, the sender that of any site. Certificates are those the services show to the NATS servers. They are for
// clients, so each end checks the chain and the name by itself. They are read at each handshake: a line that is up stays up when
// keys are renewed. Without credentials it is plain TCP, for installations on one machine.
//
// # On the wire
//
// Numbers are little-endian. The sender begins:
//
//	offset  bytes  hello
//	0       4      "HFLN"
//	4       1      version, 1
//	5       43     token, base64url without padding
//	48      4      CRC32C of what precedes
//
// The target answers with one byte: 0 welcome, 1 unknown token, 2 another version. After a refusal it closes, and after what is no
// hello it closes without an answer. Then the sender's messages follow one another, and so do the target's acks, one for each
// message in the order of the messages:
//
//	offset  bytes  message
//	0       4      length of the message, 1 to maxMessage
//	4       4      where in it zeroes begin that are not sent
//	8       4      how many they are; 0 for none
//	12      -      the bytes around them
//
//	offset  bytes  ack
//	0       8      last LSN in the journal
//	8       8      number of the last frame in the journal
//	16      8      time of that frame, nanoseconds of Unix time, 0 for none
//	24      8      last LSN that arrived, in the journal or not yet
//	32      4      flags: 1 the target asks for what follows LSN again
//	36      4      CRC32C of what precedes
//
// A message has no checksum: the frames in it have their own. What is not sent is the padding of a frame's header to whole pages.
//
// # What ends a line
//
//   - A hello that does not come within 5 s. No more than 64 connections may owe theirs at once.
//   - A length outside its bounds, zeroes that are not within it, an ack that is damaged, an error of take.
//   - A write that does not end within 2 s, at either end; of a long message each 64 KiB.
//   - Another connection that shows the same token, and the end of the offer.
//   - TCP: its keepalive notices a peer that is gone while nothing is sent.
//
// A line that ended is not made again here: whoever sends asks for another offer when it is time to. What was sent and not acked may
// or may not have been taken: whoever sends looks at the target's positions, and sends again. Silence of a peer that is connected is not
// noticed here, since positions over the bus tell.
package line
