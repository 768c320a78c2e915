package jaegertest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Jaeger asks one Jaeger's query API.
type Jaeger struct {
	base string
	http *http.Client
}

// New asks the query API at base, for example http://127.0.0.1:16686.
func New(base string) *Jaeger {
	return &Jaeger{base: strings.TrimSuffix(base, "/"), http: &http.Client{Timeout: 10 * time.Second}}
}

// Span is one span as Jaeger gives it back.
type Span struct {
	ID, Name, Service string
	Site              string // of the process
	Parent            string // id of the parent; empty for a root
	Start             time.Time
	Took              time.Duration
	Tags              map[string]string
	Links             []Link
}

// End is when the span ended.
func (s Span) End() time.Time { return s.Start.Add(s.Took) }

// Link names a span of this or another trace.
type Link struct{ Trace, Span string }

// Trace is one trace, its spans in the order of their start.
type Trace struct {
	ID    string
	Spans []Span
	// Differing are the ids of spans that were stored twice and are not the same both times.
	Differing []string
}

// ByRun is every trace that has a span with the tag run=<id>, among those of all of Holdfast's services.
func (j *Jaeger) ByRun(ctx context.Context, run string) ([]Trace, error) {
	return j.ByTag(ctx, "run", run)
}

// ByTag is every trace that has a span of a Holdfast service with the tag.
func (j *Jaeger) ByTag(ctx context.Context, key, value string) ([]Trace, error) {
	var services struct {
		Data []string `json:"data"`
	}
	if err := j.get(ctx, "/api/services", &services); err != nil {
		return nil, err
	}
	tags, err := json.Marshal(map[string]string{key: value})
	if err != nil {
		return nil, fmt.Errorf("search for %s: %w", key, err)
	}
	found := map[string]bool{}
	for _, s := range services.Data {
		if !strings.HasPrefix(s, "holdfast-") {
			continue
		}
		var list answer
		q := url.Values{"service": {s}, "tags": {string(tags)}, "limit": {"1000"}, "lookback": {"48h"}}
		if err := j.get(ctx, "/api/traces?"+q.Encode(), &list); err != nil {
			return nil, err
		}
		for _, d := range list.Data {
			found[d.TraceID] = true
		}
	}
	var out []Trace
	for id := range found {
		t, err := j.Trace(ctx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// Trace is the trace of an id, with every span of it.
func (j *Jaeger) Trace(ctx context.Context, id string) (Trace, error) {
	var a answer
	if err := j.get(ctx, "/api/traces/"+url.PathEscape(id), &a); err != nil {
		return Trace{}, err
	}
	if len(a.Data) != 1 {
		return Trace{}, fmt.Errorf("trace %s: Jaeger answers %d traces", id, len(a.Data))
	}
	return a.Data[0].trace(), nil
}

func (j *Jaeger) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.base+path, nil)
	if err != nil {
		return fmt.Errorf("ask Jaeger: %w", err)
	}
	resp, err := j.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask Jaeger: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return fmt.Errorf("ask Jaeger %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask Jaeger %s: %s: %.300s", path, resp.Status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("ask Jaeger %s: %w", path, err)
	}
	return nil
}

// answer is the query API's JSON.
type answer struct {
	Data []jsonTrace `json:"data"`
}

type jsonTrace struct {
	TraceID   string                 `json:"traceID"`
	Spans     []jsonSpan             `json:"spans"`
	Processes map[string]jsonProcess `json:"processes"`
}

type jsonSpan struct {
	SpanID        string    `json:"spanID"`
	OperationName string    `json:"operationName"`
	ProcessID     string    `json:"processID"`
	StartTime     int64     `json:"startTime"` // microseconds
	Duration      int64     `json:"duration"`
	References    []jsonRef `json:"references"`
	Tags          []jsonTag `json:"tags"`
}

type jsonRef struct {
	RefType string `json:"refType"`
	TraceID string `json:"traceID"`
	SpanID  string `json:"spanID"`
}

type jsonTag struct {
	Key   string `json:"key"`
	Value any    `json:"value"`
}

type jsonProcess struct {
	ServiceName string    `json:"serviceName"`
	Tags        []jsonTag `json:"tags"`
}

func (d jsonTrace) trace() Trace {
	t := Trace{ID: d.TraceID}
	seen := map[string]Span{}
	for _, js := range d.Spans {
		s := js.span(d)
		if old, twice := seen[s.ID]; twice {
			if old.Name != s.Name || !old.Start.Equal(s.Start) || old.Took != s.Took {
				t.Differing = append(t.Differing, s.ID)
			}
			continue
		}
		seen[s.ID] = s
		t.Spans = append(t.Spans, s)
	}
	slices.SortFunc(t.Spans, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return t
}

func (js jsonSpan) span(d jsonTrace) Span {
	p := d.Processes[js.ProcessID]
	s := Span{ID: js.SpanID, Name: js.OperationName, Service: p.ServiceName, Start: time.UnixMicro(js.StartTime),
		Took: time.Duration(js.Duration) * time.Microsecond, Tags: map[string]string{}}
	for _, tag := range p.Tags {
		if tag.Key == "holdfast.site" {
			s.Site = fmt.Sprint(tag.Value)
		}
	}
	for _, tag := range js.Tags {
		s.Tags[tag.Key] = fmt.Sprint(tag.Value)
	}
	for _, r := range js.References {
		if r.RefType == "CHILD_OF" && r.TraceID == d.TraceID && s.Parent == "" {
			s.Parent = r.SpanID
		} else {
			s.Links = append(s.Links, Link{r.TraceID, r.SpanID})
		}
	}
	return s
}
