// Command link is a link between two sites for measurements: it listens on a free port of 127.0.0.1, prints that address, and
// forwards TCP connections with the round trip and the rate that it is told, until it is killed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/netfault"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "link:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("link", flag.ContinueOnError)
	to := flags.String("to", "", "host:port that is at the other end")
	rtt := flags.Duration("rtt", time.Millisecond, "round trip")
	rate := flags.Int64("bits", 0, "bits a second each way; 0 is no limit")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *to == "" {
		return errors.New("--to is missing: host:port of the other end")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p, err := netfault.Listen(ctx, "127.0.0.1:0", *to)
	if err != nil {
		return err
	}
	p.SetDelay(*rtt / 2)
	p.SetRate(*rate / 8)
	fmt.Println(p.Addr())
	<-ctx.Done()
	return nil
}
