package api

import "github.com/holdfast-dr/holdfast/pkg/domain"

// Verbs of the dns service.
const (
	VerbChange  = "change"  // DNSChange -> DNSChanged
	VerbLookup  = "lookup"  // DNSLookup -> DNSRecord
	VerbRecords = "records" // Empty -> DNSRecords; what another site's dns service merges from
	VerbMerge   = "merge"   // DNSRecords -> Empty; per name the higher epoch wins
)

// DNSChange points a name at an address: a compare-and-swap on the old value under an epoch. A repeat of a change that
// took place succeeds. Errors: conflict (the record holds neither Old nor New), stale_epoch, unavailable, invalid.
type DNSChange struct {
	Name  string         `json:"name"` // fully qualified, with or without the last dot
	Type  string         `json:"type"` // A or AAAA
	Old   string         `json:"old"`  // empty: there must be no record
	New   string         `json:"new"`
	TTL   uint32         `json:"ttl"` // seconds
	Group domain.GroupID `json:"group"`
	Epoch domain.Epoch   `json:"epoch"`
	RunID domain.RunID   `json:"run_id,omitempty"`
	// OldIsAny accepts whatever stands under a lower epoch; for a takeover whose old value is not known.
	OldIsAny bool `json:"old_is_any,omitempty"`
}

// DNSChanged is a change that was read back from the authority.
type DNSChanged struct {
	Name             string  `json:"name"`
	Before           string  `json:"before"`
	After            string  `json:"after"`
	AuthoritySeconds float64 `json:"authority_seconds"` // from the request to the authority answering the new value
	Authority        string  `json:"authority"`         // host:port that was read back
}

// DNSLookup names a record.
type DNSLookup struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// DNSRecord is one record as the authority holds it.
type DNSRecord struct {
	Name   string         `json:"name"`
	Type   string         `json:"type"`
	Value  string         `json:"value"`
	TTL    uint32         `json:"ttl"`
	Group  domain.GroupID `json:"group"`
	Epoch  domain.Epoch   `json:"epoch"`
	Serial uint32         `json:"serial"`
	// Previous is the value that Value took the place of, empty for none.
	Previous string `json:"previous,omitempty"`
}

// DNSRecords is a whole zone's records.
type DNSRecords struct {
	Records []DNSRecord `json:"records"`
}
