package health

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/services/health/assess"
)

// A disk that hangs keeps the observer from nothing: a document has its ID and is found at once, and what does not fit is dropped.
func TestTheObserverWaitsForNoDisk(t *testing.T) {
	var log bytes.Buffer
	r := openRecords(t.TempDir(), "b", slog.New(slog.NewTextHandler(&log, nil)))
	hung, release := make(chan string), make(chan struct{})
	var written []string
	r.save = func(path string, _ []byte) error {
		if len(written) == 0 {
			hung <- path
			<-release
		}
		written = append(written, path)
		return nil
	}
	stop := r.start()
	confirmed := assess.Change{Entity: assess.EntityDisaster, Fact: assess.FactConfirmed}
	first := r.add(time.Unix(1e9, 0), confirmed)
	if got := <-hung; got != r.path(first.ID) {
		t.Fatalf("wrote %s first", got)
	}
	var last api.Evidence
	for range maxUnwritten + 10 { // with the disk in the way, the first of them would never return
		last = r.add(time.Unix(1e9, 0), confirmed)
	}
	if got, err := r.find(api.EvidenceRequest{ID: last.ID}); err != nil || len(got.Evidence) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	if n := strings.Count(log.String(), "too slow"); n != 1 {
		t.Fatalf("told %d times: %s", n, log.String())
	}
	close(release)
	stop()
	if len(written) != maxUnwritten+1 || written[maxUnwritten] != r.path(last.ID) {
		t.Fatalf("%d written, the last %s", len(written), written[len(written)-1])
	}
}

func TestTheEndDoesNotWaitForADiskThatHangs(t *testing.T) {
	r := openRecords(t.TempDir(), "b", slog.New(slog.DiscardHandler))
	hung, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	r.save = func(string, []byte) error { close(hung); <-release; return nil }
	stop := r.start()
	r.add(time.Unix(1e9, 0), assess.Change{Entity: assess.EntityDisaster, Fact: assess.FactConfirmed})
	<-hung
	stop()
}
