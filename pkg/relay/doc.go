// Package relay carries connections to a site's NATS server by way of a third site, for a site that has no way of its own
// there (ADR 18): both halves, the relay and the dialer, and the line they speak before they step aside.
//
// A client connects to the relay and names the destination by its site:
//
//	holdfast-relay/1 c\n
//
// and sends no more until it is answered
//
//	ok\n                     from here on every byte is the destination's and the client's
//	no <code> <text>\n       a code of domain.Code, and why; the connection ends
//
// What follows is not looked at: TLS, where there is any, is between the client and the destination's server, which prove
// themselves to one another as over a way of their own. So the relay holds no key, and whoever reaches it can do what they could at the
// address of the destination's server, and no more. It goes to the destinations it is configured with only.
//
// Why a line before, and not the name in TLS's first message: a NATS server speaks first (INFO), before TLS, unless it is configured
// otherwise on both sides (handshake_first), and plaintext has no such name. And why not a port for each destination: a line
// can be answered, so that a client's log says what is wrong and where it is mended.
package relay
