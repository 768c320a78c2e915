// Package objectvoter keeps passive voters' records in a bucket of an object store that speaks S3 and puts an object only on
// condition (If-Match, If-None-Match; RFC 9110 section 13.1), which is the compare-and-swap. Requests are signed (AWS Signature
// Version 4) and sent by minio-go.
//
//	<prefix>/<cluster>/<group>      one object: magic, CRC-32C of the body in hex, newline, the body as JSON
//
// The body is the version, a text drawn at random for each swap, and the record. A swap over version n puts version n+1 on condition
// that the object's ETag is still the one that version n was read with, or that there is no object where n is 0. It is never put
// without a condition. The drawn text makes every ETag another one, and tells a writer its own version from another's.
//
// One request is sent for a swap, never a second: a repeat of one that landed would look lost. What came of a swap whose answer did not
// come, or says neither done nor refused, is read back: the object is ours (won), another's version n+1 (lost), or else it is not
// known, since what was sent may still land.
//
// A store that ignores the condition, or looks and then writes without holding others off, is found by Conform, which every session
// does before its first swap, and is refused.
//
// Failure cases: a damaged object is an error, and the voter does not vote until it is mended; a store whose copies are replicated
// without waiting, or that gives old reads, is only found as far as Conform can see it; an object that was deleted, by hand or by a
// rule of the bucket's life cycle, is a voter that forgot its promises, and an older version put back in its place likewise.
package objectvoter
