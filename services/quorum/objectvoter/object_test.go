package objectvoter_test

import (
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/domain"
	"github.com/holdfast-dr/holdfast/services/quorum/core"
	"github.com/holdfast-dr/holdfast/services/quorum/objecttest"
	"github.com/holdfast-dr/holdfast/services/quorum/objectvoter"
	"github.com/holdfast-dr/holdfast/services/quorum/passivetest"
)

func bucketOf(t *testing.T, cfg objectvoter.Config, timeout time.Duration) *objectvoter.Bucket {
	t.Helper()
	b, err := objectvoter.New(t.Context(), cfg, timeout)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func objectOf(t *testing.T, b *objectvoter.Bucket, cluster string, group domain.GroupID) *objectvoter.Object {
	t.Helper()
	o, err := b.Object(cluster, group)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// erp is a new client of one group's record at an endpoint, with patience for a loaded machine.
func erp(t *testing.T, endpoint string) *objectvoter.Object {
	t.Helper()
	return objectOf(t, bucketOf(t, configured(t, endpoint), time.Minute), "test", "erp")
}

func TestAnObjectIsAPassiveVoter(t *testing.T) {
	suite(t, configured(t, serve(t, objecttest.New())))
}

// suite runs what every passive voter must do, from several sites' clients.
func suite(t *testing.T, cfg objectvoter.Config) {
	t.Helper()
	var sites []*objectvoter.Bucket
	for range 4 {
		sites = append(sites, bucketOf(t, cfg, time.Minute))
	}
	clients, next := 1000, 0
	if testing.Short() {
		clients = 100
	}
	passivetest.Run(t, clients, func(t *testing.T, cluster string, group domain.GroupID) passivetest.Records {
		next++
		return objectOf(t, sites[next%len(sites)], cluster, group)
	})
}

func TestAStoreThatDoesNotPutOnConditionGetsNoVote(t *testing.T) {
	conditioned := func(header string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Header.Get(header) != "" }
	}
	together := func() func() { // lets several through the look before any writes
		var mu sync.Mutex
		waiting, free := 0, make(chan struct{})
		return func() {
			mu.Lock()
			waiting++
			if waiting == 2 {
				close(free)
			}
			mu.Unlock()
			select {
			case <-free:
			case <-time.After(time.Minute):
			}
		}
	}
	for name, set := range map[string]func(*objecttest.Store){
		"ignores If-Match":            func(f *objecttest.Store) { f.Blind = conditioned("If-Match") },
		"ignores If-None-Match":       func(f *objecttest.Store) { f.Blind = conditioned("If-None-Match") },
		"looks first and writes then": func(f *objecttest.Store) { f.Gap = together() },
		"gives old reads": func(f *objecttest.Store) {
			f.Stale = func(*http.Request) []byte { return []byte("what was there last year") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := objecttest.New()
			set(f)
			b := bucketOf(t, configured(t, serve(t, f)), time.Minute)
			if err := b.Conform(); !errors.Is(err, objectvoter.ErrNonconforming) || !errors.Is(err, domain.ErrRefused) {
				t.Fatalf("conform: %v", err)
			}
			o := objectOf(t, b, "test", "erp")
			if _, _, err := o.Read(); !errors.Is(err, objectvoter.ErrNonconforming) {
				t.Errorf("read: %v", err)
			}
			if how, err := o.Swap(0, passivetest.Record(1)); how != core.SwapUnknown || !errors.Is(err, objectvoter.ErrNonconforming) {
				t.Errorf("swap: %v, %v", how, err)
			}
		})
	}
}

func TestAProbeLeavesNothingAndABusyStoreIsProbedAgain(t *testing.T) {
	var refuse atomic.Bool
	refuse.Store(true)
	f := objecttest.New()
	f.Busy = func(*http.Request) bool { return refuse.Load() }
	b := bucketOf(t, configured(t, serve(t, f)), time.Minute)
	if err := b.Conform(); !errors.Is(err, domain.ErrUnavailable) || errors.Is(err, objectvoter.ErrNonconforming) {
		t.Fatalf("while it refuses every write for now: %v", err)
	}
	refuse.Store(false)
	if err := b.Conform(); err != nil {
		t.Fatal(err)
	}
	if len(f.Objects) != 0 {
		t.Errorf("left %d objects", len(f.Objects))
	}
}

func TestASwapWhoseAnswerIsLostIsReadBack(t *testing.T) {
	f := objecttest.New()
	endpoint := serve(t, f)
	mine, other := erp(t, endpoint), erp(t, endpoint)
	f.Deaf = votes
	if how, err := mine.Swap(0, passivetest.Record(1)); how != core.SwapWon || err != nil {
		t.Errorf("it landed: %v, %v", how, err)
	}
	if version, _, err := other.Read(); version != 1 || err != nil {
		t.Fatal(version, err)
	}
	f.Deaf = nil
	if how, err := other.Swap(1, passivetest.Record(2)); how != core.SwapWon || err != nil {
		t.Fatal(how, err)
	}
	f.Deaf = votes
	if how, err := mine.Swap(1, passivetest.Record(3)); how != core.SwapLost || err != nil {
		t.Errorf("another's version is there: %v, %v", how, err)
	}
	f.Deaf, f.Busy = nil, votes
	if how, err := other.Swap(2, passivetest.Record(4)); how != core.SwapUnknown || !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("nothing tells whether it will land: %v, %v", how, err)
	}
}

// A proxy that sends a put again has the first land and the second refused.
func TestASwapThatWasSentTwiceIsWon(t *testing.T) {
	f := objecttest.New()
	endpoint := serve(t, f)
	o := erp(t, endpoint)
	if _, _, err := o.Read(); err != nil {
		t.Fatal(err)
	}
	var again atomic.Bool
	f.Afterwards = func(r *http.Request, code int) {
		if votes(r) && code == http.StatusOK {
			again.Store(true)
		}
	}
	twice := &twiceProxy{next: f, when: func(r *http.Request) bool { return votes(r) && r.Method == http.MethodPut }}
	proxied := erp(t, serve(t, twice))
	if how, err := proxied.Swap(0, passivetest.Record(1)); how != core.SwapWon || err != nil || !again.Load() {
		t.Errorf("%v, %v", how, err)
	}
}

func TestASwapThatAStoreIsTooSlowForMayHaveLanded(t *testing.T) {
	free := make(chan struct{})
	f := objecttest.New()
	var hold atomic.Bool
	endpoint := serve(t, f)
	f.Busy = func(r *http.Request) bool {
		if votes(r) && hold.CompareAndSwap(true, false) {
			<-free
		}
		return false
	}
	b := bucketOf(t, configured(t, endpoint), 2*time.Second)
	hasty := objectOf(t, b, "test", "erp")
	if _, _, err := hasty.Read(); err != nil {
		t.Fatal(err)
	}
	hold.Store(true)
	if how, err := hasty.Swap(0, passivetest.Record(1)); how != core.SwapUnknown || !errors.Is(err, domain.ErrUnavailable) {
		t.Errorf("swap: %v, %v", how, err)
	}
	close(free)
	other := erp(t, endpoint)
	if how, err := other.Swap(0, passivetest.Record(2)); err != nil || how == core.SwapUnknown {
		t.Fatalf("the next swap: %v, %v", how, err)
	}
	if version, _, err := other.Read(); version != 1 || err != nil {
		t.Errorf("one of two swaps over nothing landed, and the version is %d, %v", version, err)
	}
}

func TestADamagedOrForeignObjectGetsNoVote(t *testing.T) {
	f := objecttest.New()
	endpoint := serve(t, f)
	o := erp(t, endpoint)
	if how, err := o.Swap(0, passivetest.Record(1)); how != core.SwapWon {
		t.Fatal(how, err)
	}
	const path = "/votes/holdfast/test/erp"
	good := string(f.Objects[path])
	for name, text := range map[string]string{
		"a flipped bit": strings.Replace(good, `"hb":1`, `"hb":9`, 1), "cut short": good[:len(good)-3], "empty": "", "somebody's file": "a photograph",
	} {
		if text == good {
			t.Fatalf("%s: nothing was changed in %q", name, good)
		}
		f.Objects[path] = []byte(text)
		if _, _, err := o.Read(); !errors.Is(err, objectvoter.ErrCorrupt) || !errors.Is(err, domain.ErrRefused) {
			t.Errorf("%s: read: %v", name, err)
		}
		if how, err := erp(t, endpoint).Swap(1, passivetest.Record(2)); how != core.SwapUnknown || !errors.Is(err, objectvoter.ErrCorrupt) {
			t.Errorf("%s: swap: %v, %v", name, how, err)
		}
		if string(f.Objects[path]) != text {
			t.Errorf("%s: it was written over", name)
		}
	}
}

func TestAnObjectThatWentBackIsNoticedByWhoSawIt(t *testing.T) {
	f := objecttest.New()
	o := erp(t, serve(t, f))
	const path = "/votes/holdfast/test/erp"
	var old []byte
	for v := range uint64(3) {
		if how, err := o.Swap(v, passivetest.Record(v)); how != core.SwapWon {
			t.Fatal(how, err)
		}
		if v == 0 {
			old = f.Objects[path]
		}
	}
	if _, _, err := o.Read(); err != nil {
		t.Fatal(err)
	}
	f.Objects[path] = old
	if _, _, err := o.Read(); !errors.Is(err, objectvoter.ErrWentBack) || !errors.Is(err, domain.ErrRefused) {
		t.Errorf("an older version was put back: %v", err)
	}
	delete(f.Objects, path)
	for _, expect := range []uint64{0, 3} {
		if how, err := o.Swap(expect, passivetest.Record(9)); how != core.SwapUnknown || !errors.Is(err, objectvoter.ErrWentBack) {
			t.Errorf("removed, swap over version %d: %v, %v", expect, how, err)
		}
	}
	if len(f.Objects) != 0 {
		t.Error("something was written")
	}
}

func TestAStoreThatIsGoneIsUnavailable(t *testing.T) {
	gone := configured(t, "http://127.0.0.1:1")
	passivetest.Unavailable(t, objectOf(t, bucketOf(t, gone, 5*time.Second), "test", "erp"))
}

func TestWhatCannotBeABucketIsNamed(t *testing.T) {
	good := configured(t, "http://127.0.0.1:1")
	open := keyFile(t, "a", "b")
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*objectvoter.Config){
		"no https":            func(c *objectvoter.Config) { c.Endpoint = "s3.example" },
		"same machine only":   func(c *objectvoter.Config) { c.Endpoint = "http://s3.example" },
		"chmod 600":           func(c *objectvoter.Config) { c.Credentials = open },
		"no such file":        func(c *objectvoter.Config) { c.Credentials = "/nowhere/key" },
		"aws_access_key_id":   func(c *objectvoter.Config) { c.Credentials = keyFile(t, "", "") },
		"no certificate":      func(c *objectvoter.Config) { c.CA = keyFile(t, "a", "b") },
		"read the store's CA": func(c *objectvoter.Config) { c.CA = "/nowhere/ca.pem" },
	} {
		cfg := good
		change(&cfg)
		if _, err := objectvoter.New(t.Context(), cfg, time.Second); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
