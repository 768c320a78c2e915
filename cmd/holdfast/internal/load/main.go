// Command load is an initiator for measurements: it writes to iSCSI disks and prints, as one line of JSON, how long its writes took. It
// also measures the round trip of a link, to an echo of its own.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/initiator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// run does what the arguments say until that is done or ctx ends.
func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	var urls []string
	var o options
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	flags.Func("url", "iscsi://host:port/iqn/lun to write to; may be given several times", func(s string) error { urls = append(urls, s); return nil })
	flags.IntVar(&o.size, "size", 4096, "bytes of a write")
	flags.IntVar(&o.depth, "depth", 1, "writes under way at once, over all disks")
	flags.Int64Var(&o.writes, "writes", 0, "end after so many; 0: --for says when")
	flags.DurationVar(&o.lasts, "for", 0, "end after so long; 0: --writes says when")
	flags.Int64Var(&o.rate, "rate", 0, "bytes a second in all; 0: as fast as answers come")
	flags.BoolVar(&o.random, "random", false, "anywhere, not one block after the other")
	guest := flags.Bool("guest", false, "write as a guest does, and print figures at each line of standard input until its end: after slice they begin anew, after forget every block counts as not written")
	echo := flags.Bool("echo", false, "print an address of 127.0.0.1 that sends back what it gets")
	ping := flags.String("ping", "", "host:port of an echo: print the time of its answers")
	if err := flags.Parse(args); err != nil {
		return err
	}
	switch {
	case *echo:
		return serveEcho(ctx, out)
	case !*guest && o.writes == 0 && o.lasts == 0:
		return errors.New("--for or --writes is missing: nothing else ends it")
	case *ping != "":
		return pingEcho(ctx, *ping, o.lasts, out)
	case len(urls) == 0:
		return errors.New("--url is missing: the disk to write to")
	case o.size <= 0 || o.size%blockBytes != 0 || o.depth < 1:
		return fmt.Errorf("--size %d, --depth %d: give whole blocks of %d bytes, and a depth of 1 or more", o.size, o.depth, blockBytes)
	}
	var disks []*initiator.Session
	for _, u := range urls {
		d, err := initiator.Dial(ctx, u, initiator.Options{QueueDepth: max(64, o.depth)})
		if err != nil {
			return err
		}
		defer func() { _ = d.Close() }()
		disks = append(disks, d)
	}
	if *guest {
		o.guest, o.pause = true, time.Millisecond
	}
	l := newLoad(o, disks)
	l.start(ctx)
	if *guest {
		return l.answer(in, out)
	}
	if err := l.wait(); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(l.figures(false, false))
}

// answer prints figures, a line for each that is asked for, until the end of in or the first write that fails.
func (l *load) answer(in io.Reader, out io.Writer) error {
	asked := make(chan string)
	go func() {
		defer close(asked)
		for s := bufio.NewScanner(in); s.Scan(); {
			asked <- s.Text()
		}
	}()
	for {
		select {
		case <-l.over:
			return l.wait()
		case what, more := <-asked:
			if !more {
				l.end()
				return l.wait()
			}
			if err := json.NewEncoder(out).Encode(l.figures(what == "slice", what == "forget")); err != nil {
				return err
			}
		}
	}
}

// serveEcho sends back what comes over each connection until ctx ends.
func serveEcho(ctx context.Context, out io.Writer) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	fmt.Fprintln(out, ln.Addr())
	for {
		c, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer func() { _ = c.Close() }()
			_, _ = io.Copy(c, c) // until the other end has enough
		}()
	}
}

// pingEcho prints how long 64 bytes take there and back, one after the other.
func pingEcho(ctx context.Context, addr string, lasts time.Duration, out io.Writer) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	message := make([]byte, 64)
	var s stats
	for begin := time.Now(); time.Since(begin) < lasts; {
		at := time.Now()
		if _, err := c.Write(message); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, message); err != nil {
			return err
		}
		s.note(len(message), time.Since(at))
	}
	return json.NewEncoder(out).Encode(s.figures(0))
}
