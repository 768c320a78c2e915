package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// asked gives the request that flags of group set make, as JSON.
func asked(flags ...string) (string, error) {
	site := ""
	c := groupSetCommand(new(remote), &site)
	o := new(groupSettings)
	c.ResetFlags()
	o.flags(c)
	if err := c.ParseFlags(flags); err != nil {
		return "", err
	}
	req, err := o.request(c, "erp")
	req.By, req.Host = "", ""
	b, _ := json.Marshal(req)
	return string(b), err
}

func TestGroupSetAsksForWhatItsFlagsSay(t *testing.T) {
	for flags, want := range map[string]string{
		"--rate-limit|c=2MiB|--compression|c=s2": `{"group":"erp","transports":{"c":{"rate_limit":2097152,"compression":"s2"}}}`,
		"--schedule|c=mon,fri@08:00-18:00 512KiB|--schedule|c=22:00-06:00 0": `{"group":"erp","transports":{"c":{"schedule":[` +
			`{"days":["mon","fri"],"from":"08:00","to":"18:00","rate_limit":524288},{"from":"22:00","to":"06:00","rate_limit":0}]}}}`,
		"--window|c=4MiB|--window|b=0":                              `{"group":"erp","transports":{"b":{"window":0},"c":{"window":4194304}}}`,
		"--schedule|c=none":                                         `{"group":"erp","transports":{"c":{"schedule":[]}}}`,
		"--durability|cached":                                       `{"group":"erp","durability":"cached"}`,
		"--checkpoints=false":                                       `{"group":"erp","checkpoints":{"disabled":true}}`,
		"--checkpoint-every|10s|--keep-age|2h":                      `{"group":"erp","checkpoints":{"every":10000000000,"age":7200000000000}}`,
		"--app-checkpoint-every|0|--keep-count|9|--keep-bytes|1GiB": `{"group":"erp","checkpoints":{"app_every":0,"count":9,"bytes":1073741824}}`,
	} {
		if got, err := asked(strings.Split(flags, "|")...); err != nil || got != want {
			t.Errorf("%s: %v\n%s, want\n%s", flags, err, got, want)
		}
	}
	for flags, mend := range map[string]string{
		"--rate-limit|2MiB":                 "write SITE=VALUE",
		"--rate-limit|c=2 apples":           "512KiB, 10MiB",
		"--window|4MiB":                     "write SITE=VALUE",
		"--window|c=4MB":                    "512KiB, 4MiB",
		"--schedule|c=8-18 1MiB":            "HH:MM-HH:MM",
		"--schedule|c=1MiB":                 "HH:MM-HH:MM",
		"--schedule|c=Monday@08:00-09:00 0": "mon, tue",
		"--keep-bytes|16":                   "with its unit",
	} {
		if _, err := asked(strings.Split(flags, "|")...); !errors.Is(err, domain.ErrInvalid) || !strings.Contains(err.Error(), mend) {
			t.Errorf("%s: %v, want %q", flags, err, mend)
		}
	}
}
