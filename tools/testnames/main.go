// Testnames prints an expression for go test -run that matches some tests of folders, so that a longer run does not repeat what the
// quick one did:
//
//	testnames -short DIR...     the tests that do less under -short: they, or what they call in their package, ask testing.Short
//	testnames -tag e2e DIR...   the tests of files that are built with this tag only
//
// It fails where it finds none.
package main

import (
	"flag"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	short := flag.Bool("short", false, "tests that ask testing.Short")
	tag := flag.String("tag", "", "tests of files with this build tag")
	flag.Parse()
	if err := run(*short, *tag, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "testnames:", err)
		os.Exit(1)
	}
}

func run(short bool, tag string, dirs []string) error {
	var names []string
	for _, dir := range dirs {
		paths, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			return err
		}
		var files []*ast.File
		for _, path := range paths {
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
			if err != nil {
				return err
			}
			if tag == "" || tagged(f, tag) {
				files = append(files, f)
			}
		}
		found := tests(files)
		if short {
			found = slices.DeleteFunc(found, isNotIn(askers(files)))
		}
		names = append(names, found...)
	}
	if len(names) == 0 {
		return fmt.Errorf("no such test in %v", dirs)
	}
	slices.Sort(names)
	fmt.Printf("^(%s)$\n", strings.Join(slices.Compact(names), "|"))
	return nil
}

func isNotIn(set map[string]bool) func(string) bool {
	return func(name string) bool { return !set[name] }
}

// tagged reports whether a file is built with the tag and not without.
func tagged(f *ast.File, tag string) bool {
	for _, group := range f.Comments {
		for _, c := range group.List {
			if c.Pos() > f.Package || !constraint.IsGoBuild(c.Text) {
				continue
			}
			x, err := constraint.Parse(c.Text)
			return err == nil && !x.Eval(func(t string) bool { return t != tag }) && x.Eval(func(string) bool { return true })
		}
	}
	return false
}

func tests(files []*ast.File) (names []string) {
	for _, f := range files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") && fn.Name.Name != "TestMain" {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}

// askers are the functions that ask testing.Short, and those that call them, by name.
func askers(files []*ast.File) map[string]bool {
	asks := map[string]bool{}
	for more := true; more; {
		more = false
		for _, f := range files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && !asks[fn.Name.Name] && uses(fn, asks) {
					asks[fn.Name.Name], more = true, true
				}
			}
		}
	}
	return asks
}

// uses reports whether a function names one of these, or testing.Short.
func uses(fn *ast.FuncDecl, names map[string]bool) (yes bool) {
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			yes = yes || ok && x.Name == "testing" && n.Sel.Name == "Short"
		case *ast.Ident:
			yes = yes || n != fn.Name && names[n.Name]
		}
		return !yes
	})
	return yes
}
