// Command sim runs random schedules of the quorum in virtual time, and replays one by its seed.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/holdfast-dr/holdfast/sim"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run exits with 0 when every invariant held, 1 on a violation (also a mutant's), 2 on bad usage.
func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	flags.SetOutput(errs)
	schedules := flags.Int("schedules", 20000, "how many `schedules` to run")
	seed := flags.Uint64("seed", 0, "run only this `seed`")
	first := flags.Uint64("first", 1, "first `seed` of the schedules")
	forced := flags.Bool("forced", false, "let an operator force quorum in every schedule")
	verbose := flags.Bool("v", false, "print the transcript (with -seed)")
	mutant := flags.String("mutant", "", "break the protocol in the way `named`; 'list' names them")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	var mut sim.Mutations
	if *mutant == "list" {
		for _, m := range sim.Mutants() {
			fmt.Fprintf(out, "%-28s %s\n", m.Name, m.Doc)
		}
		return 0
	}
	if *mutant != "" {
		m, ok := sim.MutantNamed(*mutant)
		if !ok {
			fmt.Fprintf(errs, "sim: no mutant %q; -mutant list names them\n", *mutant)
			return 2
		}
		m.Set(&mut)
	}
	mut.OftenForced = mut.OftenForced || *forced
	debug.SetGCPercent(-1) // collect by memory, not by growth: a schedule is short and leaves nothing behind
	debug.SetMemoryLimit(384 << 20)
	if *seed != 0 {
		return replay(out, *seed, mut, *verbose)
	}
	sum := sim.Many(*first, *schedules, mut)
	fmt.Fprintln(out, sum)
	if sum.Violation == nil {
		return 0
	}
	fmt.Fprintf(out, "replay: go run ./sim/cmd/sim -seed %d -v%s\n", sum.Violation.Seed, mutantFlag(*mutant))
	return 1
}

func mutantFlag(name string) string {
	if name == "" {
		return ""
	}
	return " -mutant " + name
}

func replay(out io.Writer, seed uint64, mut sim.Mutations, verbose bool) int {
	var trace func(string)
	if verbose {
		trace = func(line string) { fmt.Fprintln(out, line) }
	}
	r := sim.Run(seed, mut, trace)
	fmt.Fprintf(out, "seed %d (%s): %d events, %d epochs, %d acknowledged writes", r.Seed, r.Topology, r.Events, r.Grants, r.Writes)
	if r.Violation != "" {
		fmt.Fprintf(out, ": VIOLATION: %s\n", r.Violation)
		return 1
	}
	fmt.Fprintln(out, ": no violation")
	return 0
}
