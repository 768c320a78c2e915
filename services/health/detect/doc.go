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
// paused calls Forgive: the time in which it could not hear proves nothing about others.
package detect
