//go:build e2e

package checkpoints

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/cmd/holdfast/internal/sitestest"
	"github.com/holdfast-dr/holdfast/services/failover/workload"
)

// product is the binary under test.
var product string

func TestMain(m *testing.M) {
	os.Exit(sitestest.Main(m, &product))
}

// writers append at the same time.
const writers = 2

// client appends to the guest's log all the time, from when the guest answers.
type client struct {
	t    *testing.T
	url  string
	end  context.CancelFunc
	wg   sync.WaitGroup
	news chan uint64 // the number of each record that is acknowledged

	mu   sync.Mutex
	last uint64
}

// newClient waits until the guest answers.
func newClient(t *testing.T, address string) *client {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	c := &client{t: t, url: "http://" + address + "/append", end: end, news: make(chan uint64, 1<<16)}
	for range writers {
		c.wg.Go(func() {
			for ctx.Err() == nil {
				if seq, err := c.append(ctx); err == nil {
					c.acknowledged(seq)
				} else {
					time.Sleep(20 * time.Millisecond) // it does not answer, yet or any more
				}
			}
		})
	}
	t.Cleanup(c.stop)
	return c
}

func (c *client) append(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader("x"))
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("append: %s", res.Status)
	}
	var a workload.Ack
	return a.Seq, json.NewDecoder(res.Body).Decode(&a)
}

func (c *client) acknowledged(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, seq)
	c.news <- seq
}

// acked is the highest record that was acknowledged: every one below was appended before it.
func (c *client) acked() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// more waits until n further records are acknowledged, and gives the number of the first.
func (c *client) more(n int) (first uint64) {
	c.t.Helper()
	for len(c.news) > 0 {
		<-c.news
	}
	for i := range n {
		select {
		case seq := <-c.news:
			if i == 0 {
				first = seq
			}
		case <-time.After(patience):
			c.t.Fatalf("%s does not answer", c.url)
		}
	}
	return first
}

// stop ends the writers; what they asked for is answered or given up.
func (c *client) stop() {
	c.end()
	c.wg.Wait()
}
