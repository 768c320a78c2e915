package describe

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v4"

	"github.com/holdfast-dr/holdfast/pkg/event"
)

// document is the part of AsyncAPI 3.0 that describes events. See https://www.asyncapi.com/docs/reference/specification/v3.0.0.
type document struct {
	AsyncAPI    string               `yaml:"asyncapi"`
	Info        info                 `yaml:"info"`
	ContentType string               `yaml:"defaultContentType"`
	Servers     map[string]server    `yaml:"servers"`
	Channels    map[string]channel   `yaml:"channels"`
	Operations  map[string]operation `yaml:"operations"`
	Components  components           `yaml:"components"`
}

type info struct {
	Title       string            `yaml:"title"`
	Version     string            `yaml:"version"`
	Description string            `yaml:"description"`
	License     map[string]string `yaml:"license"`
}

type server struct {
	Host        string              `yaml:"host"`
	Protocol    string              `yaml:"protocol"`
	Description string              `yaml:"description"`
	Variables   map[string]variable `yaml:"variables"`
	Security    []ref               `yaml:"security"`
}

type variable struct {
	Description string   `yaml:"description"`
	Enum        []string `yaml:"enum,omitempty,flow"`
}

type ref struct {
	Ref string `yaml:"$ref"`
}

type channel struct {
	Address     string              `yaml:"address"`
	Title       string              `yaml:"title"`
	Description string              `yaml:"description"`
	Parameters  map[string]variable `yaml:"parameters"`
	Messages    map[string]ref      `yaml:"messages"`
}

type operation struct {
	Action  string `yaml:"action"`
	Channel ref    `yaml:"channel"`
	Summary string `yaml:"summary"`
}

type components struct {
	Messages        map[string]message           `yaml:"messages"`
	Schemas         map[string]any               `yaml:"schemas"`
	SecuritySchemes map[string]map[string]string `yaml:"securitySchemes"`
}

type message struct {
	Name        string `yaml:"name"`
	Title       string `yaml:"title"`
	Summary     string `yaml:"summary"`
	ContentType string `yaml:"contentType"`
	Headers     ref    `yaml:"headers"`
	Payload     ref    `yaml:"payload"`
}

const aboutAPI = `Everything Holdfast learns or makes is an event at the NATS server of the site that tells it, a CloudEvents 1.0 object in JSON.
The operations are Holdfast's: it sends. A subscriber does the opposite of each.
Within v1 events, fields and values are added, never taken away or changed. See events.md beside this file.
`

func newDocument() document {
	return document{
		AsyncAPI: "3.0.0", ContentType: "application/cloudevents+json",
		Info: info{Title: "Holdfast events", Version: "v1", Description: aboutAPI, License: map[string]string{"name": "see LICENSE"}},
		Servers: map[string]server{"site": {Host: "{host}:4222", Protocol: "nats",
			Description: "The NATS server of one site. Sites are not joined: subscribe at each of them, and drop repeats by id.",
			Variables:   map[string]variable{"host": {Description: "Address of the site's NATS server."}},
			Security:    []ref{{"#/components/securitySchemes/clientCertificate"}}}},
		Channels: map[string]channel{}, Operations: map[string]operation{},
		Components: components{
			Messages: map[string]message{},
			Schemas: map[string]any{"headers": map[string]any{"type": "object", "properties": map[string]any{
				"Nats-Msg-Id": map[string]string{"type": "string", "description": "The event's id."},
				"traceparent": map[string]string{"type": "string", "description": "W3C trace context, as in the event."}}}},
			SecuritySchemes: map[string]map[string]string{"clientCertificate": {"type": "X509",
				"description": "A TLS client certificate and NATS user credentials (a JWT and its key) of the principal reader. " +
					"An installation without security listens on the loopback interface and asks for neither."}},
		},
	}
}

// asyncAPI is docs/asyncapi.yaml: a channel an entity, a message an event.
func (b book) asyncAPI() ([]byte, error) {
	doc := newDocument()
	for _, d := range event.Catalogue() {
		c, ok := doc.Channels[d.Entity]
		if !ok {
			c = channel{Address: "hf.v1.evt.{site}." + d.Entity + ".{id}.{fact}", Title: "Facts about a " + d.Entity,
				Description: fmt.Sprintf("Facts about a %s, as a site tells them.", d.Entity), Messages: map[string]ref{},
				Parameters: map[string]variable{"site": {Description: "The site that tells it."}, "id": {Description: "The " + d.Entity + " it tells of."}}}
			doc.Operations["tellOf"+title(d.Entity)] = operation{Action: "send", Channel: ref{"#/channels/" + d.Entity}, Summary: c.Description}
		}
		fact := c.Parameters["fact"]
		fact.Description, fact.Enum = "What happened.", append(fact.Enum, d.Fact)
		c.Parameters["fact"] = fact
		c.Messages[d.Fact] = ref{"#/components/messages/" + d.Type()}
		doc.Channels[d.Entity] = c
		doc.Components.Messages[d.Type()] = message{Name: d.Type(), Title: d.Entity + " " + d.Fact, Summary: d.When,
			ContentType: doc.ContentType, Headers: ref{"#/components/schemas/headers"}, Payload: ref{"./schemas/" + SchemaFile(d)}}
	}
	var out bytes.Buffer
	out.WriteString("# Made by \"task generate\" from pkg/event. Do not edit: change the catalogue and its comments.\n")
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("describe events: %w", err)
	}
	return out.Bytes(), enc.Close()
}

func title(s string) string { return string(s[0]-'a'+'A') + s[1:] }
