// Package zone holds the state of a delegated zone and decides what a change does to it. It is pure: no clock, no I/O,
// no goroutine. A Zone is a value; a change makes a new one, so a server may answer from the old while the new one is
// being made durable.
//
// # A change
//
//	Change{Old, New, Epoch} --> name of another group --------------> domain.ErrRefused
//	                        --> epoch below one seen for the name --> domain.ErrStaleEpoch
//	                        --> New stands already, same epoch -----> done before, success, nothing changes
//	                        --> neither Old nor New stands ---------> domain.ErrConflict
//	                        --> else: New stands, epoch and serial grow
//
// # Two copies
//
// Each site serves its own copy and must be able to without the others. Copies are joined by Merge, record by record:
// the higher epoch wins, then the higher serial. An epoch has one maker, and a serial grows past every serial its maker
// has seen, so the order is total wherever the quorum kept its promise. Where it did not (one epoch, one serial, two
// values) Merge reports the conflict and both sites settle on the same value.
//
// A deleted record stays behind as a record with no value, so that an older copy cannot bring it back.
//
// # Clock assumptions
//
// None. Epochs and serials order everything.
//
// # Failure cases
//
// A site whose copy is old answers with an old address until it hears from a peer: the service pulls before it answers,
// and answers SERVFAIL for a name that points at itself while it holds no lease. A zone file that was lost starts from
// the configured records at epoch 0, which any record of a peer overrides.
package zone
