// Package describe turns the catalogue of events into what outsiders read: docs/events.md, the JSON Schemas of
// docs/schemas and docs/asyncapi.yaml. Types come from the Go payloads by reflection, meanings from their doc comments,
// which comments.json carries into the binary so that `holdfast event catalogue` can print the same anywhere.
//
//	doc comments --go generate--> comments.json --+
//	event.Catalogue, payload types, event.Values --+--> Files --> docs/
//
// Tests hold the committed files to what Files makes, every field to having a meaning, and v1 to additions only.
package describe

//go:generate go run ./internal/generate -comments comments.json ../../event ../../api ../../domain
//go:generate go run ./internal/generate -docs ../../../docs
