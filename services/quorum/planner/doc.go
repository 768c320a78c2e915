// Package planner looks at who votes before anything is lost: it counts who keeps quorum after each loss of a site and in each
// partition of the sites, and warns as the field advises. It is pure: a configuration and, where a site runs, what is known
// of it go in, a report comes out. Votes are counted by package core, as the service counts them.
//
// A warning is raised, clear, or not known; what cannot be known from what was given is never left out.
package planner
