package systemdtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/fdbroker/fdbroker/protocol"
)

// source is what the Go code of package protocol has for the interfaces.
type source struct {
	structs   map[string]Type   // those with JSON names, as the interface would have them
	errors    map[string]string // the name on the wire of each error type
	constants map[string]bool   // the values of all string constants
}

// TestInterface: io.fdbroker's text and the Go types say the same. By convention the
// type T is the struct T, the parameters of method M are MParameters and its reply is
// MReply, and an error is a type with that wireName.
func TestInterface(t *testing.T) {
	i := parse(t, protocol.Interface, protocol.InterfaceName)
	src := readSource(t)
	for name, want := range i.Types {
		if len(want.Enum) == 0 {
			src.check(t, i, name, name, want)
			continue
		}
		for _, value := range want.Enum {
			if !src.constants[value] {
				t.Errorf("type %s: no constant is %q", name, value)
			}
		}
	}
	for name, m := range i.Methods {
		src.check(t, i, name, name+"Parameters", m.In)
		src.check(t, i, name, name+"Reply", m.Out)
		if !src.constants[name] {
			t.Errorf("method %s has no constant", name)
		}
	}
	src.checkErrors(t, i)
}

// TestServiceInterface: the same of org.varlink.service. Errors that the broker never
// returns need no Go type.
func TestServiceInterface(t *testing.T) {
	i := parse(t, protocol.ServiceInterface, protocol.ServiceInterfaceName)
	src := readSource(t)
	src.check(t, i, "GetInfo", "Info", i.Methods["GetInfo"].Out)
	src.check(t, i, "GetInterfaceDescription", "InterfaceParameters", i.Methods["GetInterfaceDescription"].In)
	src.check(t, i, "GetInterfaceDescription", "InterfaceReply", i.Methods["GetInterfaceDescription"].Out)
	if len(i.Methods) != 2 || len(i.Types) != 0 {
		t.Errorf("there is more in it than Varlink says: %+v", i)
	}
	delete(i.Errors, "MethodNotImplemented")
	src.checkErrors(t, i)
}

func parse(t *testing.T, text, name string) Interface {
	t.Helper()
	i, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if i.Name != name {
		t.Errorf("it is called %s, want %s", i.Name, name)
	}
	return i
}

// check compares the fields of a struct.
func (src source) check(t *testing.T, i Interface, name, goName string, want Type) {
	t.Helper()
	got, ok := src.structs[goName]
	if !ok && len(want.Fields) > 0 {
		t.Errorf("%s.%s: there is no struct %s", i.Name, name, goName)
	}
	fields := slices.Clone(want.Fields)
	for n, f := range fields {
		if len(i.Types[f.Type.Name].Enum) > 0 {
			fields[n].Type.Name = "string"
		}
	}
	if !reflect.DeepEqual(got.Fields, fields) {
		t.Errorf("%s.%s: struct %s has the fields\n%v, the interface\n%v", i.Name, name, goName, got.Fields, fields)
	}
}

// checkErrors compares the errors, in both directions.
func (src source) checkErrors(t *testing.T, i Interface) {
	t.Helper()
	names := make(map[string]bool)
	for goName, wire := range src.errors {
		name, ok := strings.CutPrefix(wire, i.Name+".")
		if !ok {
			continue
		}
		names[name] = true
		if want, ok := i.Errors[name]; ok {
			src.check(t, i, name, goName, want)
		} else {
			t.Errorf("%s is not in the interface", wire)
		}
	}
	for name := range i.Errors {
		if !names[name] {
			t.Errorf("error %s.%s has no Go type", i.Name, name)
		}
	}
}

// readSource reads the code of package protocol.
func readSource(t *testing.T) source {
	t.Helper()
	files, err := filepath.Glob("../../protocol/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no source: %v", err)
	}
	src := source{make(map[string]Type), make(map[string]string), make(map[string]bool)}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, src.visit)
	}
	return src
}

func (src source) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.TypeSpec:
		if s, ok := n.Type.(*ast.StructType); ok {
			src.structs[n.Name.Name] = Type{Fields: fields(s)}
		}
	case *ast.ValueSpec:
		for _, v := range n.Values {
			if name := constant(v); name != "" {
				src.constants[name] = true
			}
		}
	case *ast.FuncDecl:
		if n.Name.Name != "wireName" || n.Recv == nil {
			return true
		}
		receiver, ok := n.Recv.List[0].Type.(*ast.StarExpr)
		result, ok2 := n.Body.List[0].(*ast.ReturnStmt)
		if !ok || !ok2 {
			return true
		}
		if sum, ok := result.Results[0].(*ast.BinaryExpr); ok {
			base := map[string]string{"InterfaceName": protocol.InterfaceName, "ServiceInterfaceName": protocol.ServiceInterfaceName}
			src.errors[receiver.X.(*ast.Ident).Name] = base[sum.X.(*ast.Ident).Name] + constant(sum.Y)
		}
	}
	return true
}

// constant returns the text of a string, or of what is added to a name, without the
// dot of a method: "Get" of InterfaceName + ".Get".
func constant(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil {
			return s
		}
	case *ast.BinaryExpr:
		return strings.TrimPrefix(constant(e.Y), ".")
	}
	return ""
}

// fields returns those with JSON names, as the interface has to have them.
func fields(s *ast.StructType) []Field {
	var all []Field
	for _, f := range s.Fields.List {
		if f.Tag == nil {
			continue
		}
		text, _ := strconv.Unquote(f.Tag.Value)
		name, options, _ := strings.Cut(reflect.StructTag(text).Get("json"), ",")
		typ := typeOf(f.Type)
		typ.Nullable = typ.Nullable || options == "omitempty"
		all = append(all, Field{Name: name, Type: typ})
	}
	return all
}

func typeOf(e ast.Expr) Type {
	switch e := e.(type) {
	case *ast.StarExpr:
		t := typeOf(e.X)
		t.Nullable = true
		return t
	case *ast.ArrayType:
		t := typeOf(e.Elt)
		return Type{Name: t.Name, Array: true, NullableElement: t.Nullable}
	case *ast.Ident:
		if slices.Contains([]string{"int", "int64", "uint32", "uint64"}, e.Name) {
			return Type{Name: "int"}
		}
		return Type{Name: e.Name}
	}
	return Type{Name: "any"}
}

// TestSource: the reader of source finds what the tests above rely on.
func TestSource(t *testing.T) {
	src := readSource(t)
	if got := src.errors["UnknownNameError"]; got != "io.fdbroker.UnknownName" {
		t.Errorf("UnknownNameError is %q on the wire; all: %v", got, slices.Sorted(maps.Values(src.errors)))
	}
	if got := src.structs["GetParameters"].Fields; len(got) == 0 || got[0].Type.String() != "[]string" {
		t.Errorf("GetParameters is %v", got)
	}
}
