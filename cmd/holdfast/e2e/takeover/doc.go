// Package takeover measures, on sites that are processes of the real binary, how long a group is without a site after the loss of
// the one that served it, and what the parts of a planned move take. It judges nothing: task bench:takeover writes its figures into
// bench/results/takeover.json, beside those that the vote's design promises.
package takeover
