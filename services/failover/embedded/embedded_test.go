package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/pkg/initiator"
	"github.com/holdfast-dr/holdfast/pkg/tgtd"
	"github.com/holdfast-dr/holdfast/services/failover/hostagent"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
	"github.com/holdfast-dr/holdfast/services/failover/workload/applog"
	"github.com/holdfast-dr/holdfast/services/failover/workload/ledger"
)

type rig struct {
	target *tgtd.Target
	file   string
	port   int

	mu    sync.Mutex
	lines []ledger.Line
	gate  atomic.Pointer[error]
}

func newRig(t *testing.T) *rig {
	file := filepath.Join(t.TempDir(), "disk")
	r := &rig{target: tgtd.Start(t, file, 16<<20), file: file}
	ln, err := net.Listen("tcp", "127.77.11.10:0")
	if err != nil {
		t.Fatal(err)
	}
	r.port = ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	return r
}

func (r *rig) spec(counter int) hostagent.Spec {
	return hostagent.Spec{
		VM: "erp-1", Group: "erp", Site: "a", Host: "h1", Epoch: domain.NewEpoch(0, counter, 1), Instance: workload.NewInstance(),
		Disks: []api.Disk{{Volume: "data", URL: r.target.URL}}, Address: "127.77.11.10", Port: r.port,
		Gate: func() error {
			if err := r.gate.Load(); err != nil {
				return *err
			}
			return nil
		},
		Ledger: func(l ledger.Line) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.lines = append(r.lines, l)
			return nil
		},
	}
}

func (r *rig) kinds() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for _, l := range r.lines {
		b.WriteString(l.Kind[:3] + " ")
	}
	return b.String()
}

func (r *rig) append(t *testing.T) (uint64, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://127.77.11.10:%d/append", r.port), strings.NewReader("x"))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		return 0, errors.New(res.Status)
	}
	var a workload.Ack
	return a.Seq, json.NewDecoder(res.Body).Decode(&a)
}

func (r *rig) scan(t *testing.T) applog.Report {
	t.Helper()
	f, err := os.Open(r.file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rep, err := applog.Scan(f)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

func TestVMLivesOnItsISCSIDisk(t *testing.T) {
	r := newRig(t)
	d := &Driver{}
	power, pull := context.WithCancel(t.Context())
	defer pull()
	vm, err := d.Start(power, r.spec(1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if seq, err := r.append(t); err != nil || seq != uint64(i+1) {
			t.Fatal(seq, err)
		}
	}
	pull() // loss of power
	<-vm.Done()
	if _, err := r.append(t); err == nil || vm.Err() != nil {
		t.Fatal("it still answers, or calls that a failure", err, vm.Err())
	}
	if vm, err = d.Start(t.Context(), r.spec(2)); err != nil {
		t.Fatal(err)
	}
	if seq, err := r.append(t); err != nil || seq != 21 {
		t.Fatal(seq, err)
	}
	vm.Stop(t.Context(), time.Second)
	if got, want := r.kinds(), "sta "+strings.Repeat("ack ", 20)+"sta ack sto "; got != want {
		t.Fatalf("ledger %q, want %q", got, want)
	}
	if rep := r.scan(t); !rep.PrefixOK || rep.LastSeq != 21 || len(rep.Spans) != 2 {
		t.Fatalf("%+v", rep)
	}
	if _, err := d.Start(t.Context(), r.spec(1)); !errors.Is(err, domain.ErrStaleEpoch) {
		t.Fatal("an epoch lower than the log's was started:", err)
	}
}

func TestVMRidesOutTheLossOfItsTarget(t *testing.T) {
	r := newRig(t)
	vm, err := (&Driver{}).Start(t.Context(), r.spec(1))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill("end of the test")
	if _, err := r.append(t); err != nil {
		t.Fatal(err)
	}
	r.target.Kill()
	done := make(chan error, 1)
	go func() { _, err := r.append(t); done <- err }()
	r.target.Restart(t)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if seq, err := r.append(t); err != nil || seq != 3 {
		t.Fatal(seq, err)
	}
	if rep := r.scan(t); !rep.PrefixOK || rep.LastSeq != 3 {
		t.Fatalf("%+v", rep)
	}
}

func TestKillEndsAVMWhoseDiskHangs(t *testing.T) {
	r := newRig(t)
	vm, err := (&Driver{}).Start(t.Context(), r.spec(1))
	if err != nil {
		t.Fatal(err)
	}
	r.target.Kill()
	done := make(chan error, 1)
	go func() { _, err := r.append(t); done <- err }()
	begin := time.Now()
	vm.Kill("no lease")
	if took := time.Since(begin); took > 500*time.Millisecond {
		t.Errorf("the kill took %s", took)
	}
	if err := <-done; err == nil {
		t.Fatal("acknowledged without a disk")
	}
	if got := r.kinds(); !strings.HasPrefix(got, "sta ") || strings.Contains(got, "ack") || !strings.HasSuffix(got, "sto ") {
		t.Fatal(got)
	}
}

func TestClosedGateAnswersNothing(t *testing.T) {
	r := newRig(t)
	vm, err := (&Driver{}).Start(t.Context(), r.spec(1))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill("end of the test")
	no := error(domain.ErrNoLease)
	r.gate.Store(&no)
	if _, err := r.append(t); err == nil || !strings.Contains(err.Error(), "503") {
		t.Fatal(err)
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	r := newRig(t)
	d := &Driver{}
	s := r.spec(1)
	s.Disks[0].Serial = "another"
	if _, err := d.Start(t.Context(), s); err == nil || !strings.Contains(err.Error(), "serial") {
		t.Error(err)
	}
	s = r.spec(1)
	s.Disks[0].URL = strings.Replace(r.target.URL, "/1", "/9", 1)
	if _, err := d.Start(t.Context(), s); err == nil {
		t.Error("a unit that is not there was opened")
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.77.11.10:%d", r.port))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if _, err := d.Start(t.Context(), r.spec(1)); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Error(err)
	}
	s = r.spec(1)
	s.Disks[0].URL = "iscsi://127.0.0.1:1/iqn.x:y/0"
	if _, err := d.Start(t.Context(), s); !errors.Is(err, initiator.ErrBroken) && !strings.Contains(err.Error(), "refused") {
		t.Error(err)
	}
}
