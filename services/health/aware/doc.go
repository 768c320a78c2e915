// Package aware tells how well an observer itself hears, from when its own ticks came and from what its own server brings it. It is
// pure: no clock, no I/O, no goroutine. Readings of the observer's clock go in, doubts come out.
//
// An observer that was paused, runs late or is cut off sees everybody else gone. What it sees then is a property of itself
// (Dadgar, Phillips and Currey, "Lifeguard: Local Health Awareness for More Accurate Failure Detection", 2017). So it doubts itself:
//
//	paused    a tick came later than Pause: until it has listened for as long as a loss takes to show
//	starved   the time by which ticks were late, leaking away at a quarter of real time, reached two Pauses: until one is left
//	deaf      its own server is out of reach, or does not bring its own heartbeats back: until it does, and as for paused
//
// Whoever doubts himself tells nothing, and his evidence has a Confidence of Low and counts for nobody. Below starved, lateness
// lowers the confidence and is excused in every detector, but counts.
//
// # Clock assumptions
//
// Readings are of one clock that does not run backwards and counts suspends (CLOCK_BOOTTIME).
package aware
