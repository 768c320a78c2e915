// Package compose is the end-to-end suite of sites in containers: three compose projects on one machine, each a whole site
// made by holdfast site init, with a network for each pair of sites between them. It is all tests: with the tag
// e2e_compose, against the images that task images and task images:standins build.
//
// A user outside of every site appends to a workload's log all the time. Each scenario strikes the installation where it
// serves, lets it heal without a hand on it, and then holds what the disks have against what the user was told is done.
package compose
