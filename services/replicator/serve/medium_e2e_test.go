//go:build e2e

package serve

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLibiscsiFindsTheMediumAndTheReservationsAsItWants runs the suites of libiscsi that ask for the state around the data:
// nothing fails, and on a removable medium nothing is skipped.
func TestLibiscsiFindsTheMediumAndTheReservationsAsItWants(t *testing.T) {
	need(t, "iscsi-test-cu")
	for kind, removable := range map[string]bool{"removable": true, "fixed": false} {
		t.Run(kind, func(t *testing.T) {
			url, _ := start(t, Options{File: filepath.Join(t.TempDir(), "v.img"), Size: "64MiB", Listen: "127.0.0.1:0", Removable: removable})
			for _, suite := range []string{"PreventAllow", "StartStopUnit", "NoMedia", "PrinReadKeys", "PrinServiceactionRange", "PrinReportCapabilities",
				"ProutRegister", "ProutReserve", "ProutClear", "ProutPreempt", "Reserve6", "Inquiry", "ModeSense6"} {
				out, err := tool(t, "iscsi-test-cu", "-d", "-n", "-t", "SCSI."+suite, url)
				if summary := regexp.MustCompile(`tests +(\d+) +(\d+) +(\d+) +0 `).FindStringSubmatch(out); err != nil || summary == nil || summary[2] == "0" {
					t.Errorf("%s: %v\n%s", suite, err, out)
				}
				if removable && strings.Contains(out, "[SKIPPED]") {
					t.Errorf("%s: some were skipped:\n%s", suite, out)
				}
			}
		})
	}
}
