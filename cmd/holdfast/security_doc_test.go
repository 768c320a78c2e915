package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/holdfast-dr/holdfast/pkg/access"
	"github.com/holdfast-dr/holdfast/pkg/api"
)

var writeSecurity = flag.Bool("write-security", false, "write the table of docs/security.md anew")

const securityDoc = "../../docs/security.md"

func callTable() string {
	var b strings.Builder
	b.WriteString("| caller | may call | verbs | at |\n|---|---|---|---|\n")
	for _, kind := range []string{api.ServiceQuorum, api.ServiceHealth, api.ServiceReplicator, api.ServiceFailover, api.ServiceDNS, "host", access.Operator, access.Reader, access.Monitor} {
		calls := access.Calls(kind)
		if len(calls) == 0 {
			fmt.Fprintf(&b, "| %s | nothing | | |\n", kind)
		}
		for _, c := range calls {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", kind, c.To, strings.Join(c.Verbs, ", "), c.At)
		}
	}
	return b.String()
}

func TestSecurityDocumentHasTheTableOfPkgAccess(t *testing.T) {
	raw, err := os.ReadFile(securityDoc)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- calls -->\n", "<!-- /calls -->"
	before, rest, _ := strings.Cut(string(raw), begin)
	got, after, ok := strings.Cut(rest, end)
	if !ok {
		t.Fatalf("%s has no table between %q and %q", securityDoc, begin, end)
	}
	if want := callTable(); got != want {
		if *writeSecurity {
			if err := os.WriteFile(securityDoc, []byte(before+begin+want+end+after), 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Fatalf("the table of %s is not that of pkg/access: run go test ./cmd/holdfast -run %s -write-security", securityDoc, t.Name())
	}
}

func TestEveryLineOfTheSecurityDocumentNamesATestThatExists(t *testing.T) {
	doc, err := os.ReadFile(securityDoc)
	if err != nil {
		t.Fatal(err)
	}
	tests := declaredTests(t)
	_, rest, _ := strings.Cut(string(doc), "## What an attacker")
	table, _, _ := strings.Cut(rest, "## Limits")
	lines := 0
	for row := range strings.Lines(table) {
		if !strings.HasPrefix(row, "| ") || strings.HasPrefix(row, "| where") {
			continue
		}
		lines++
		if !strings.Contains(row, "`Test") {
			t.Errorf("a line without a test: %s", row)
		}
	}
	if lines < 8 {
		t.Errorf("only %d lines", lines)
	}
	for _, m := range regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(string(doc), -1) {
		if !tests[m[1]] {
			t.Errorf("%s names %s, which does not exist", securityDoc, m[1])
		}
	}
}
