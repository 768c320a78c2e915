// Package comments reads the doc comments of types and their fields from Go source.
package comments

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
)

// Read returns the comments of the wanted types in the packages of some folders, by "Type" and "Type.Field".
func Read(wanted map[string]bool, dirs ...string) (map[string]string, error) {
	texts := map[string]string{}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, fmt.Errorf("read comments of %s: %w", file, err)
			}
			collect(texts, wanted, f)
		}
	}
	return texts, nil
}

// collect adds the comments of a file's wanted types.
func collect(texts map[string]string, wanted map[string]bool, f *ast.File) {
	for _, decl := range f.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			t := spec.(*ast.TypeSpec)
			if !wanted[t.Name.Name] {
				continue
			}
			doc := t.Doc
			if doc == nil {
				doc = gen.Doc
			}
			put(texts, t.Name.Name, doc)
			if s, ok := t.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, name := range field.Names {
						put(texts, t.Name.Name+"."+name.Name, field.Doc, field.Comment)
					}
				}
			}
		}
	}
}

// put joins comments into one line.
func put(texts map[string]string, key string, groups ...*ast.CommentGroup) {
	var parts []string
	for _, g := range groups {
		if text := strings.Join(strings.Fields(g.Text()), " "); text != "" {
			parts = append(parts, text)
		}
	}
	if len(parts) > 0 {
		texts[key] = strings.Join(parts, " ")
	}
}
