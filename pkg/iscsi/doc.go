// Package iscsi is the wire language that the iSCSI target and the iSCSI initiator share: PDUs and their digests
// (RFC 7143 section 11), text keys (section 6), CHAP (section 12.1), and the SCSI words both sides need (SPC-4, SBC-4).
// It imports the standard library only and keeps no state of its own; sessions live with their owners.
//
// A PDU is a 48-byte header in wire form and its data. Typed structs (SCSICommand, DataOut, ...) are parsed from it and
// put into it by value, so the hot path does not allocate:
//
//	r := iscsi.NewReader(conn, pool, 256<<10)     w := iscsi.NewWriter(conn)
//	var p iscsi.PDU                               var q iscsi.PDU
//	if err := r.Next(&p); err != nil { ... }      iscsi.NopIn{ITT: p.ITT(), ...}.Put(&q)
//	switch p.Opcode() { ... }                     err := w.Write(&q); err = w.Flush()
//	p.Release()
//
// Every length that comes from the other side is checked against a limit before a byte of memory is taken for it.
package iscsi
