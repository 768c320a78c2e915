package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"time"
)

// poster delivers one event at a time.
type poster struct {
	url            string
	secret         []byte
	client         *http.Client
	first, longest time.Duration // waits between attempts: doubled from first up to longest
}

func newPoster(url string, secret []byte) *poster {
	return &poster{url: url, secret: secret, client: &http.Client{Timeout: 10 * time.Second}, first: 200 * time.Millisecond, longest: 30 * time.Second}
}

// post sends an event until it is accepted (2xx) or refused for good (another 4xx than 408 and 429; it is logged and left
// out, so that one bad event does not hold up the rest). It returns an error only when ctx ends.
func (p *poster) post(ctx context.Context, event []byte) error {
	for wait := p.first; ; wait = min(2*wait, p.longest) {
		again, err := p.once(ctx, event)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !again:
			log.Printf("left out: %v: %s", err, event)
			return nil
		}
		log.Printf("again in %v: %v", wait, err)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// once makes one request; again tells whether another may succeed.
func (p *poster) once(ctx context.Context, event []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(event))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	if len(p.secret) > 0 {
		at := strconv.FormatInt(time.Now().Unix(), 10)
		req.Header.Set("X-Holdfast-Timestamp", at)
		req.Header.Set("X-Holdfast-Signature", "sha256="+sign(p.secret, at, event))
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return true, err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	_ = resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout || resp.StatusCode/100 == 3
	return again, fmt.Errorf("post event to %s: %s", p.url, resp.Status)
}

// sign is HMAC-SHA256 of "<timestamp>.<body>", in hexadecimal. The receiver makes the same, compares in constant time, and
// refuses a timestamp that is minutes old.
func sign(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	_, _ = fmt.Fprintf(mac, "%s.", timestamp)
	_, _ = mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}
