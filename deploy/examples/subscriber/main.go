// Command subscriber prints every event of a site, live: all that an outside tool needs is a NATS client.
//
//	NATS_URL=nats://127.0.0.1:4222 go run .
//	NATS_URL=tls://nats-b.example:4222 CREDS=user.creds CA=ca.pem CERT=client.pem KEY=client.key go run .
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/signal"

	"github.com/nats-io/nats.go"
)

func main() {
	options := []nats.Option{nats.Name("subscriber"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true)}
	if os.Getenv("CREDS") != "" {
		options = append(options, nats.UserCredentials(os.Getenv("CREDS")), nats.RootCAs(os.Getenv("CA")), nats.ClientCert(os.Getenv("CERT"), os.Getenv("KEY")))
	}
	nc, err := nats.Connect(os.Getenv("NATS_URL"), options...)
	if err != nil {
		log.Fatal(err)
	}
	_, err = nc.Subscribe("hf.v1.evt.>", func(m *nats.Msg) {
		var event struct {
			ID, Type, Source, Time string
			Data                   json.RawMessage
		}
		if err := json.Unmarshal(m.Data, &event); err != nil {
			log.Print("not an event: ", err)
			return
		}
		fmt.Println(event.Time, event.Source, event.Type, string(event.Data))
	})
	if err != nil {
		log.Fatal(err)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt)
	<-stop
}
