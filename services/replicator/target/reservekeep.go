package target

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// keptReservations is what survives a loss of power. SPC-4 section 5.12.5 has the generation begin anew.
type keptReservations struct {
	Registrations []keptRegistration `json:"registrations"`
	Holder        []byte             `json:"holder,omitempty"`
	Type          byte               `json:"type,omitempty"`
}

type keptRegistration struct {
	Nexus    []byte `json:"nexus"` // a name need not be UTF-8
	Key      uint64 `json:"key"`
	AllPorts bool   `json:"all_ports,omitempty"`
}

// encode is what is to be kept of r, empty when nothing is.
func (r *reservations) encode() ([]byte, error) {
	if !r.keep {
		return nil, nil
	}
	k := keptReservations{Holder: []byte(r.holder), Type: r.kind}
	for _, g := range r.list {
		k.Registrations = append(k.Registrations, keptRegistration{[]byte(g.nexus), g.key, g.allPorts})
	}
	return json.Marshal(k)
}

// decodeReservations checks what was kept: it decides who may write.
func decodeReservations(b []byte) (*reservations, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var k keptReservations
	if err := d.Decode(&k); err != nil {
		return nil, err
	}
	r := &reservations{holder: string(k.Holder), kind: k.Type, keep: true}
	for _, g := range k.Registrations {
		nexus := string(g.Nexus)
		if nexus == "" || g.Key == 0 || r.registered(nexus) {
			return nil, fmt.Errorf("registration of %q with key %#x", nexus, g.Key)
		}
		r.register(registration{nexus, g.Key, g.AllPorts})
	}
	if len(r.list) == 0 || len(r.list) > maxRegistrations {
		return nil, fmt.Errorf("%d registrations", len(r.list))
	}
	if r.kind != 0 && (!validKind(r.kind) || !r.registered(r.holder)) || r.kind == 0 && r.holder != "" {
		return nil, fmt.Errorf("a reservation of type %d held by %q", r.kind, r.holder)
	}
	return r, nil
}

// recall takes over what the unit kept before the power was lost.
func (h *holding) recall(u Unit) error {
	var ok bool
	if h.keeper, ok = u.(Keeper); !ok {
		return nil
	}
	b, err := h.keeper.Kept()
	if err != nil {
		return fmt.Errorf("read the persistent reservations: %w", err)
	}
	if len(b) == 0 {
		return nil
	}
	r, err := decodeReservations(b)
	if err != nil {
		return fmt.Errorf("read the persistent reservations: %w: %w", domain.ErrInvalid, err)
	}
	h.now.Store(r)
	return nil
}

// persist makes durable what r wants kept, when it is not what is kept already. Under changing.
func (h *holding) persist(old, r *reservations) error {
	if h.keeper == nil || !r.keep && !old.keep && !h.unsure {
		return nil
	}
	before, err := old.encode()
	if err != nil {
		return err
	}
	b, err := r.encode()
	if err != nil || !h.unsure && bytes.Equal(b, before) {
		return err
	}
	h.unsure = true // until it is known to be there
	if err := h.keeper.Keep(b); err != nil {
		return fmt.Errorf("keep the persistent reservations: %w", err)
	}
	h.unsure = false
	return nil
}
