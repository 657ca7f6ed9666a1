package systemdtest

import (
	"fmt"
	"regexp"
	"strings"
)

// Interface is a definition that was read.
type Interface struct {
	Name    string
	Types   map[string]Type
	Methods map[string]Method
	Errors  map[string]Type
}

// Method is a method's parameters and its reply, both structs.
type Method struct{ In, Out Type }

// Type is a type of the language. Exactly one of Name, Fields and Enum says what it
// is, but for an empty struct, which has none.
type Type struct {
	Nullable, Array, Map bool
	NullableElement      bool     // of an array or a map
	Name                 string   // bool, int, float, string, object, any, or a type of the interface
	Fields               []Field  // of a struct
	Enum                 []string // of an enum
}

// Field is a field of a struct.
type Field struct {
	Name string
	Type Type
}

// String returns a named type as the language writes it.
func (t Type) String() string {
	s := t.Name
	if t.NullableElement {
		s = "?" + s
	}
	switch {
	case t.Array:
		s = "[]" + s
	case t.Map:
		s = "[string]" + s
	}
	if t.Nullable {
		s = "?" + s
	}
	return s
}

var (
	tokenRE       = regexp.MustCompile(`^(->|\[\]|\[string\]|[(),:?]|\n|[A-Za-z][A-Za-z0-9._-]*)`)
	interfaceName = regexp.MustCompile(`^[A-Za-z](-*[A-Za-z0-9])*(\.[A-Za-z0-9](-*[A-Za-z0-9])*)+$`)
	memberName    = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*$`)
	fieldName     = regexp.MustCompile(`^[A-Za-z](_?[A-Za-z0-9])*$`)
)

var builtin = map[string]bool{"bool": true, "int": true, "float": true, "string": true, "object": true, "any": true}

// reader reads tokens. It panics with a syntaxError.
type reader struct {
	tokens []string
	lines  []int
	used   map[string]bool // types that are referred to
}

type syntaxError string

// Parse reads a definition by the grammar of https://varlink.org/Interface-Definition.
func Parse(text string) (i Interface, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, ok := r.(syntaxError)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("interface: %s", string(e))
		}
	}()
	r := &reader{used: make(map[string]bool)}
	r.split(text)
	i = Interface{Types: map[string]Type{}, Methods: map[string]Method{}, Errors: map[string]Type{}}
	r.skipLines()
	r.want("interface")
	if i.Name = r.next(); !interfaceName.MatchString(i.Name) {
		r.fail("%q is no interface's name", i.Name)
	}
	seen := make(map[string]bool)
	for r.endLine(); len(r.tokens) > 0; r.endLine() {
		kind, name := r.next(), r.match(memberName)
		if seen[name] {
			r.fail("%s is defined twice", name)
		}
		seen[name] = true
		switch kind {
		case "type":
			i.Types[name] = r.body(true)
		case "error":
			i.Errors[name] = r.body(false)
		case "method":
			in := r.body(false)
			r.want("->")
			i.Methods[name] = Method{in, r.body(false)}
		default:
			r.fail("%q is no kind of member", kind)
		}
	}
	if len(i.Methods) == 0 && len(i.Types) == 0 && len(i.Errors) == 0 {
		r.fail("there is no member")
	}
	for name := range r.used {
		if _, ok := i.Types[name]; !ok {
			r.fail("type %s is not defined", name)
		}
	}
	return i, nil
}

// split makes tokens of text, without blanks and comments.
func (r *reader) split(text string) {
	line := 1
	for text != "" {
		switch {
		case text[0] == ' ' || text[0] == '\t':
			text = text[1:]
			continue
		case text[0] == '#':
			end := strings.IndexByte(text, '\n')
			if end < 0 {
				panic(syntaxError(fmt.Sprintf("line %d: the comment has no end", line)))
			}
			text = text[end:]
			continue
		}
		t := tokenRE.FindString(text)
		if t == "" {
			panic(syntaxError(fmt.Sprintf("line %d: %.10q is no token", line, text)))
		}
		r.tokens, r.lines = append(r.tokens, t), append(r.lines, line)
		text = text[len(t):]
		if t == "\n" {
			line++
		}
	}
}

// body reads a struct, or an enum where one is allowed.
func (r *reader) body(enum bool) Type {
	var t Type
	r.want("(")
	seen := make(map[string]bool)
	for first := true; ; first = false {
		r.skipLines()
		if first && r.peek() == ")" {
			r.next()
			return t
		}
		name := r.match(fieldName)
		if seen[name] {
			r.fail("field %s is there twice", name)
		}
		seen[name] = true
		r.skipLines()
		if enum && r.peek() != ":" && len(t.Fields) == 0 {
			t.Enum = append(t.Enum, name)
		} else {
			r.want(":")
			t.Fields = append(t.Fields, Field{name, r.reference()})
		}
		if len(t.Enum) > 0 && len(t.Fields) > 0 {
			r.fail("neither a struct nor an enum")
		}
		r.skipLines()
		if r.peek() == ")" {
			r.next()
			return t
		}
		r.want(",")
	}
}

// reference reads the type of a field. Structs within structs are not used here.
func (r *reader) reference() Type {
	var t Type
	t.Nullable = r.accept("?")
	t.Array = r.accept("[]")
	t.Map = !t.Array && r.accept("[string]")
	if t.Array || t.Map {
		t.NullableElement = r.accept("?")
	}
	t.Name = r.next()
	if !builtin[t.Name] {
		if !memberName.MatchString(t.Name) {
			r.fail("%q is no type's name", t.Name)
		}
		r.used[t.Name] = true
	}
	return t
}

func (r *reader) peek() string {
	if len(r.tokens) == 0 {
		r.fail("it ends too early")
	}
	return r.tokens[0]
}

func (r *reader) next() string {
	t := r.peek()
	r.tokens, r.lines = r.tokens[1:], r.lines[1:]
	return t
}

func (r *reader) accept(t string) bool {
	if r.peek() != t {
		return false
	}
	r.next()
	return true
}

func (r *reader) want(t string) {
	if got := r.peek(); got != t {
		r.fail("%q where %q must be", got, t)
	}
	r.next()
}

func (r *reader) match(name *regexp.Regexp) string {
	if !name.MatchString(r.peek()) {
		r.fail("%q is no name for that", r.peek())
	}
	return r.next()
}

// endLine reads the end of a line, and empty ones.
func (r *reader) endLine() {
	r.want("\n")
	r.skipLines()
}

func (r *reader) skipLines() {
	for len(r.tokens) > 0 && r.tokens[0] == "\n" {
		r.tokens, r.lines = r.tokens[1:], r.lines[1:]
	}
}

func (r *reader) fail(format string, args ...any) {
	where := "at the end"
	if len(r.lines) > 0 {
		where = fmt.Sprintf("line %d", r.lines[0])
	}
	panic(syntaxError(where + ": " + fmt.Sprintf(format, args...)))
}
