//go:build race

package journal

// raceEnabled scales the long tests down: the detector makes them ten times slower.
const raceEnabled = true
