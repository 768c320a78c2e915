package main

import (
	"fmt"

	"github.com/holdfast-dr/holdfast/pkg/api"
	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// decides takes over who decides that the group is taken over. What belongs to another policy goes with it.
func (o *groupSettings) decides(changed func(string) bool, req *api.GroupSetRequest) error {
	if changed("approvers") {
		req.Approvers = &o.approvers
	} else if req.Failover != "" && req.Failover != domain.FailoverConfirm {
		req.Approvers = new(int)
	}
	if !changed("auto-window") && !changed("auto-per-day") {
		if req.Failover != "" && req.Failover != domain.FailoverAuto {
			req.Automatic = new(domain.Automatic)
		}
		return nil
	}
	req.Automatic = &domain.Automatic{PerDay: o.autoPerDay}
	for _, text := range o.autoWindows {
		if text == "" {
			continue
		}
		w, err := domain.ParseWindow(text)
		if err != nil {
			return fmt.Errorf("--auto-window %q: %w", text, err)
		}
		req.Automatic.Windows = append(req.Automatic.Windows, w)
	}
	return nil
}
