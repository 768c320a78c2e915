package bus_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/bus"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestRequestToAServerThatWasNeverReachedSaysSo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "nats://" + ln.Addr().String()
	_ = ln.Close()
	mesh, err := bus.Dial(bus.Config{Site: "a", Service: "test", URLs: map[domain.SiteID]string{"a": nobody}})
	if err != nil {
		t.Fatal(err)
	}
	defer mesh.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = mesh.Local().Request(ctx, "hf.v1.api.a.quorum.status", nil)
	if !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), "was not reached yet") {
		t.Errorf("the error hides why: %v", err)
	}
}
