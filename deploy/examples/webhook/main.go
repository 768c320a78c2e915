// Command webhook posts every event of a site to a URL: one CloudEvent a request, in order, each until it is accepted.
// It is configured by its environment; see README.md beside deploy/examples.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/nats-io/nats.go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Getenv); err != nil {
		log.Fatal("webhook: ", err)
	}
}

func run(ctx context.Context, env func(string) string) error {
	target, err := url.Parse(env("WEBHOOK_URL"))
	if err != nil || target.Host == "" {
		return fmt.Errorf("read WEBHOOK_URL %q: not an address: set it to where events go, for example https://hooks.example.org/dr", env("WEBHOOK_URL"))
	}
	nc, err := connect(env)
	if err != nil {
		return err
	}
	defer nc.Close()
	p := newPoster(target.String(), []byte(env("WEBHOOK_SECRET")))
	subject := env("SUBJECT")
	if subject == "" {
		subject = "hf.v1.evt.>"
	}
	if env("STATE") == "" {
		log.Printf("live only: what happens while this is down is not posted; set STATE where the credentials may read the stream")
		err = followLive(ctx, nc, subject, p.post)
	} else {
		err = followStored(ctx, nc, subject, position(env("STATE")), p.post)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// connect opens a connection, with TLS and credentials when CREDS is set.
func connect(env func(string) string) (*nats.Conn, error) {
	if env("NATS_URL") == "" {
		return nil, errors.New("NATS_URL is not set: set it to the address of a site's NATS server, for example nats://127.0.0.1:4222")
	}
	options := []nats.Option{nats.Name("webhook"), nats.MaxReconnects(-1)}
	if env("CREDS") != "" {
		options = append(options, nats.UserCredentials(env("CREDS")), nats.RootCAs(env("CA")), nats.ClientCert(env("CERT"), env("KEY")))
		if inbox := env("INBOX"); inbox != "" {
			options = append(options, nats.CustomInboxPrefix(inbox))
		}
	}
	nc, err := nats.Connect(env("NATS_URL"), options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", env("NATS_URL"), err)
	}
	return nc, nil
}
