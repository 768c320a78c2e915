// Package sitestest runs two data sites and a witness for the tests that kill them, each a process of the real binary on addresses of
// loopback that no other test has.
package sitestest
