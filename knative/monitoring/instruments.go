package monitoring

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Instrument is something that the code measures, as it is told there.
type Instrument struct {
	Name, Unit, Help string
	Kind             string // Counter, Gauge or Histogram
	Method           string // of the meter, that makes it
}

// Instruments reads from the sources in a folder what is measured.
func Instruments(dir string) ([]Instrument, error) {
	var all []Instrument
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if i, ok := instrument(call); ok {
					all = append(all, i)
				}
			}
			return true
		})
		return nil
	})
	slices.SortFunc(all, func(a, b Instrument) int { return cmp.Compare(a.Name, b.Name) })
	return all, err
}

// instrument tells whether a call makes one.
func instrument(call *ast.CallExpr) (i Instrument, ok bool) {
	method, isMethod := call.Fun.(*ast.SelectorExpr)
	if !isMethod || len(call.Args) == 0 {
		return i, false
	}
	if i.Name, ok = literal(call.Args[0]); !ok || !strings.HasPrefix(i.Name, "pilotlight.") {
		return i, false
	}
	i.Method = method.Sel.Name
	for _, kind := range []string{"Counter", "Gauge", "Histogram"} {
		if strings.HasSuffix(i.Method, kind) {
			i.Kind = kind
		}
	}
	for _, a := range call.Args[1:] {
		option, isCall := a.(*ast.CallExpr)
		if !isCall {
			continue
		}
		if f, isOption := option.Fun.(*ast.SelectorExpr); isOption && len(option.Args) > 0 {
			switch f.Sel.Name {
			case "WithUnit":
				i.Unit, _ = literal(option.Args[0])
			case "WithDescription":
				i.Help, _ = literal(option.Args[0])
			}
		}
	}
	return i, i.Kind != ""
}

func literal(e ast.Expr) (string, bool) {
	l, ok := e.(*ast.BasicLit)
	if !ok || l.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(l.Value)
	return s, err == nil
}

// Exported is its name for Prometheus, as OpenTelemetry translates it.
func (i *Instrument) Exported() string {
	name := strings.ReplaceAll(i.Name, ".", "_")
	if unit := map[string]string{"s": "_seconds", "By": "_bytes"}[i.Unit]; !strings.HasSuffix(name, unit) {
		name += unit
	}
	if i.Kind == "Counter" {
		name += "_total"
	}
	return name
}

// Series are the names of its samples.
func (i *Instrument) Series() []string {
	name := i.Exported()
	if i.Kind == "Histogram" {
		return []string{name + "_bucket", name + "_sum", name + "_count"}
	}
	return []string{name}
}
