package target

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// RemoveIdleTarget stops serving iqn when nobody is logged in to it, and otherwise changes nothing (domain.ErrRefused).
// Nobody can log in between the two. Removing what is not there is domain.ErrNotFound.
func (s *Server) RemoveIdleTarget(iqn string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.targets[iqn]
	if t == nil {
		return fmt.Errorf("remove target %s: %w", iqn, domain.ErrNotFound)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.sessions); n > 0 {
		return fmt.Errorf("remove target %s: %d sessions are logged in; log them out first: %w", iqn, n, domain.ErrRefused)
	}
	t.removed = true
	delete(s.targets, iqn)
	return nil
}
