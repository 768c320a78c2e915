// Package event is the catalogue of facts: every event Holdfast publishes, its payload and its subject. Events are
// CloudEvents 1.0 in the JSON format (structured mode), one JSON object a message, at
// hf.v1.evt.<site>.<entity>.<id>.<past_fact>. Within v1 the catalogue only grows.
//
// Events are hints for whoever acts: nothing that must be true is decided by one. State is durable before its event is
// published, and an event's id is derived from what it tells, so that a repeat is recognised.
package event

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Event is a CloudEvents 1.0 envelope. See https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md.
type Event struct {
	SpecVersion     string          `json:"specversion"`           // version of CloudEvents
	ID              string          `json:"id"`                    // the same for a repeat of the same fact: drop what you have seen
	Source          string          `json:"source"`                // /site/<site>/<service>
	Type            string          `json:"type"`                  // hf.v1.<entity>.<fact>
	Subject         string          `json:"subject"`               // hf.v1.evt.<site>.<entity>.<id>.<fact>, the NATS subject
	Time            time.Time       `json:"time"`                  // of the fact, by the publisher's wall clock
	DataContentType string          `json:"datacontenttype"`       // of the payload
	TraceParent     string          `json:"traceparent,omitempty"` // W3C trace context of what led to it
	Data            json.RawMessage `json:"data"`                  // the payload, an object
}

// What every envelope says of itself.
const (
	SpecVersion = "1.0"
	ContentType = "application/json"
)

// Fact is a payload: it knows its entity, its fact and the id of what it is about.
type Fact interface {
	// Key names the entity and fact, as in Catalogue.
	Key() (entity, fact string)
	// Of is the id of the entity, for the subject.
	Of() string
}

// New wraps a fact. id must be the same for a repeat of the same fact; see Event.ID.
func New(site domain.SiteID, service, id string, now time.Time, f Fact) (Event, error) {
	entity, fact := f.Key()
	d, ok := Lookup(entity, fact)
	if !ok {
		return Event{}, fmt.Errorf("build event %s.%s: %w: not in the catalogue", entity, fact, domain.ErrInvalid)
	}
	data, err := json.Marshal(f)
	if err != nil {
		return Event{}, fmt.Errorf("build event %s.%s: %w", entity, fact, err)
	}
	return Event{
		SpecVersion: SpecVersion, ID: id, Source: "/site/" + string(site) + "/" + service,
		Type: d.Type(), Subject: api.EventSubject(site, entity, f.Of(), fact),
		Time: now.UTC(), DataContentType: ContentType, Data: data,
	}, nil
}

// Decode reads an envelope and, when the catalogue has its type, its payload. An unknown type has a nil Fact.
func Decode(b []byte) (Event, Fact, error) {
	var e Event
	if err := json.Unmarshal(b, &e); err != nil {
		return Event{}, nil, fmt.Errorf("decode event: %w", err)
	}
	for _, d := range Catalogue() {
		if d.Type() != e.Type {
			continue
		}
		f := d.New()
		if err := json.Unmarshal(e.Data, f); err != nil {
			return e, nil, fmt.Errorf("decode event %s: %w", e.Type, err)
		}
		return e, f, nil
	}
	return e, nil, nil
}
