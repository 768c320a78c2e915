package telemetry

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

func TestHealthIsOKOnlyWhenEveryCheckPasses(t *testing.T) {
	h := NewHealth("a", "quorum")
	if h.Report().OK {
		t.Error("a process without checks says it is fine")
	}
	h.Check("quorum", "serving", func() error { return errors.New("it has not begun") })
	stop, address := listenSomewhere(t, h)
	if code, r := healthz(t, address); code != http.StatusServiceUnavailable || r.OK || len(r.Checks) != 1 || r.Checks[0].Reason != "it has not begun" {
		t.Errorf("before it serves: %d %+v", code, r)
	}
	h.Check("quorum", "serving", func() error { return nil }) // replaces
	if code, r := healthz(t, address); code != http.StatusOK || !r.OK || r.Site != "a" || r.Service != "quorum" || len(r.Checks) != 1 {
		t.Errorf("when it serves: %d %+v", code, r)
	}
	h.Check("quorum", "bus", func() error { return errors.New("not reached") })
	if code, _ := healthz(t, address); code != http.StatusServiceUnavailable {
		t.Errorf("without a bus: %d", code)
	}
	h.Check("quorum", "bus", func() error { return nil })
	h.Note("relay", "listening", func() error { return errors.New("address already in use") })
	if code, r := healthz(t, address); code != http.StatusOK || !r.Impaired() || r.Checks[2].OK || r.Checks[2].Reason != "address already in use" {
		t.Errorf("without what it can do without: %d %+v", code, r)
	}
	stop()
	if _, err := net.Dial("tcp", address); err == nil {
		t.Error("still listening after stop")
	}
}

func TestPortInUseNamesTheSetting(t *testing.T) {
	_, address := listenSomewhere(t, NewHealth("a", "quorum"))
	_, err := Listen(t.Context(), address, NewHealth("a", "dns"), nil)
	if !errors.Is(err, domain.ErrUnavailable) || !strings.Contains(err.Error(), "metrics.listen") || !strings.Contains(err.Error(), address) {
		t.Errorf("error is %v", err)
	}
}

func TestNoAddressListensNowhere(t *testing.T) {
	stop, err := Listen(t.Context(), "", NewHealth("a", "quorum"), nil)
	if err != nil {
		t.Fatal(err)
	}
	stop()
}

func listenSomewhere(t *testing.T, h *Health) (stop func(), address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = ln.Addr().String()
	ln.Close()
	stop, err = Listen(t.Context(), address, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return stop, address
}

func healthz(t *testing.T, address string) (int, HealthReport) {
	t.Helper()
	resp, err := http.Get("http://" + address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var r HealthReport
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, r
}
