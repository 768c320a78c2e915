// Package rfc2136 changes a record at an existing DNS server (BIND, Knot, PowerDNS) by a dynamic update (RFC 2136) signed
// with TSIG (RFC 8945), and reads it back from that server.
//
// # A change
//
//	read record and epoch --> another group's ------------------> domain.ErrRefused
//	    ^                 --> a higher epoch stands ------------> domain.ErrStaleEpoch
//	    |                 --> neither Old nor New stands -------> domain.ErrConflict
//	    |                 --> New stands, epoch too: done ------> read back, success
//	    |                 --> update, on the condition that the record and the epoch are still exactly as read
//	    |                        |-> taken ---------------------> read back, success
//	    +----- at most 3 times <-|-> a condition no longer holds
//	                             |-> no reply ------------------> domain.ErrUnavailable: effect unknown, repeat
//	                             `-> key, policy, zone wrong ---> domain.ErrRefused, naming the mend
//
// The server itself checks the conditions (RFC 2136 section 2.4.2, "RRset exists (value dependent)"), in one step with
// the update. Reading first only makes the message clear; a mover that raced in between is refused by the server.
//
// # The epoch
//
// With EpochTXT a TXT record at _hf-epoch.<name> holds the group and the epoch under which the name was last moved, and is
// part of the condition and of the update: then a stale primary is refused even if it guesses the old value. It is one for
// the name, A and AAAA together. Without it only the old value protects.
//
// # Clock assumptions
//
// TSIG needs the wall clocks of both ends within 300 s; a server that disagrees answers BADTIME and nothing changes.
package rfc2136
