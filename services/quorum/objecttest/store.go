// Package objecttest is the part of an object store that a vote needs, in memory, with ways to get it wrong. It checks no signature.
package objecttest

import (
	"crypto/md5" //nolint:gosec // an ETag is one
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// Store is the store, by path. Its faults must not be changed while requests are under way.
type Store struct {
	mu      sync.Mutex
	Objects map[string][]byte // by path: /bucket/key

	Blind      func(r *http.Request) bool      // the condition of such a request is not looked at
	Gap        func()                          // between the look at the condition and the write, which then nothing holds together
	Deaf       func(r *http.Request) bool      // such a request is carried out and its answer lost
	Busy       func(r *http.Request) bool      // such a request is refused since another is under way
	Stale      func(r *http.Request) []byte    // such a read gives this
	Afterwards func(r *http.Request, code int) // told of each request
}

// New is an empty store that does as it should.
func New() *Store { return &Store{Objects: map[string][]byte{}} }

// ServeHTTP answers PUT, GET and DELETE of an object.
func (f *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPut:
		f.put(w, r)
	case http.MethodGet:
		f.get(w, r)
	case http.MethodDelete:
		f.mu.Lock()
		delete(f.Objects, r.URL.Path)
		f.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}
}

func tag(data []byte) string { sum := md5.Sum(data); return `"` + hex.EncodeToString(sum[:]) + `"` }

func (f *Store) get(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	data, ok := f.Objects[r.URL.Path]
	f.mu.Unlock()
	if f.Stale != nil {
		if old := f.Stale(r); old != nil {
			data, ok = old, true
		}
	}
	if !ok {
		fail(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	w.Header().Set("ETag", tag(data))
	w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	_, _ = w.Write(data)
}

func (f *Store) put(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	code := f.store(r, body)
	if f.Afterwards != nil {
		f.Afterwards(r, code)
	}
	if f.Deaf != nil && f.Deaf(r) {
		panic(http.ErrAbortHandler) // closes the connection
	}
	switch code {
	case http.StatusOK:
		w.Header().Set("ETag", tag(body))
	case http.StatusNotFound:
		fail(w, code, "NoSuchKey")
	case http.StatusConflict:
		fail(w, code, "ConditionalRequestConflict")
	default:
		fail(w, code, "PreconditionFailed")
	}
}

// store carries a put out and says how it went.
func (f *Store) store(r *http.Request, body []byte) int {
	if f.Busy != nil && f.Busy(r) {
		return http.StatusConflict
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if code := f.condition(r); code != http.StatusOK && (f.Blind == nil || !f.Blind(r)) {
		return code
	}
	if f.Gap != nil {
		f.mu.Unlock()
		f.Gap()
		f.mu.Lock()
	}
	f.Objects[r.URL.Path] = body
	return http.StatusOK
}

func (f *Store) condition(r *http.Request) int {
	old, ok := f.Objects[r.URL.Path]
	want := r.Header.Get("If-Match")
	switch {
	case want != "" && !ok:
		return http.StatusNotFound
	case want != "" && tag(old) != want, r.Header.Get("If-None-Match") == "*" && ok:
		return http.StatusPreconditionFailed
	}
	return http.StatusOK
}

func fail(w http.ResponseWriter, code int, name string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(code)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", name, name)
}
