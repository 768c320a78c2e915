// Package detect tells from answers and their absence whether one object is alive, on one path. It is pure: no clock, no
// I/O, no goroutine. Readings of the observer's clock go in, states come out.
//
//	            first answer              Suspect beats missed          Dead beats missed
//	unknown ------------------> alive ------------------> suspect -------------------------> dead
//	   |                          ^                        ^   ^                              |
//	   |                          |   enough in a row      |   |          an answer           |
//	   |                          +------------------------+   +------------------------------+
//	   +--- Grace passes without an answer, then Dead beats more ---------------------------> dead
//
// # Suspicion
//
// It accrues with silence (Hayashibara et al., "The phi accrual failure detector", SRDS 2004): phi is minus the decimal logarithm of how
// likely it is that a living object is silent for so long, and an object is dead at 8. Which silence that is, the link's own history says:
//
//	again   the greater of: how often a beat was missed; how often one was missed after a missed one
//	phi     missed beats * -log10(again)
//
// The paper fits a normal distribution to the times between answers. Lost messages are not normal: their tail is geometric, and a normal
// one promises 10^-8 where the truth is 10^-3 (ADR 21 has the figures). The geometric tail is used here in its place. again never
// falls below what makes phi 8 at Dead missed beats, which is this detector's minimum standard deviation, and starts there: 32 answers
// weigh as much as that assumption, so that a link without a history, which one is after each restart, is a clean one. No link has
// more patience than Late beats: what is bought by it on a bad link is bounded.
//
// An outage is no history: an answer that ends death is not added.
//
// # Hysteresis
//
// It enters after N missed and leaves after M > N good ones in a row: Suspect+1 from suspicion, Recover (above Dead) once it
// was dead. A single answer of a dead object makes it suspect at once: it is no longer evidence of a loss, but not trusted
// either. A missed beat begins the row anew.
//
// # Damping
//
// Each further fall within FlapWindow doubles how many good ones are needed, up to eight times as many.
//
// # Clock assumptions
//
// Readings are of one clock that does not run backwards and counts suspends (CLOCK_BOOTTIME). An observer that was itself
// paused calls Forgive: the time in which it could not hear proves nothing about others. One that ran late calls Excuse.
package detect
