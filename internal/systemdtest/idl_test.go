package systemdtest

import (
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	i, err := Parse(`# c

interface a.b-c
type S (x: int, y: ?[]?T,
  z: [string]string
)
type T (one, two_2)

method M(s: ?S) -> ()# c
error E ()
`)
	if err != nil {
		t.Fatal(err)
	}
	want := Interface{
		Name: "a.b-c",
		Types: map[string]Type{
			"S": {Fields: []Field{
				{Name: "x", Type: Type{Name: "int"}},
				{Name: "y", Type: Type{Name: "T", Nullable: true, Array: true, NullableElement: true}},
				{Name: "z", Type: Type{Name: "string", Map: true}},
			}},
			"T": {Enum: []string{"one", "two_2"}},
		},
		Methods: map[string]Method{"M": {In: Type{Fields: []Field{{Name: "s", Type: Type{Name: "S", Nullable: true}}}}}},
		Errors:  map[string]Type{"E": {}},
	}
	if !reflect.DeepEqual(i, want) {
		t.Errorf("read %+v, want %+v", i, want)
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"no interface", "type T ()\n", `"type" where "interface"`},
		{"one word", "interface a\ntype T ()\n", "no interface's name"},
		{"no member", "interface a.b\n", "there is no member"},
		{"lower case", "interface a.b\ntype t ()\n", "line 2"},
		{"two on a line", "interface a.b\ntype A () type B ()\n", `"type" where "\n"`},
		{"no end of line", "interface a.b\ntype A ()", "ends too early"},
		{"unknown type", "interface a.b\ntype A (x: B)\n", "B is not defined"},
		{"unknown basic type", "interface a.b\ntype A (x: integer)\n", "no type's name"},
		{"underscores", "interface a.b\ntype A (x__y: int)\n", "no name for that"},
		{"underscore at the end", "interface a.b\ntype A (x_: int)\n", "no name for that"},
		{"comma at the end", "interface a.b\ntype A (x: int,)\n", "no name for that"},
		{"twice a type", "interface a.b\ntype A ()\nerror A ()\n", "A is defined twice"},
		{"twice a field", "interface a.b\ntype A (x: int, x: int)\n", "x is there twice"},
		{"enum and struct", "interface a.b\ntype A (x, y: int)\n", "neither"},
		{"enum in a method", "interface a.b\nmethod A(x) -> ()\n", `")" where ":"`},
		{"no reply", "interface a.b\nmethod A()\n", `"\n" where "->"`},
		{"twice nullable", "interface a.b\ntype A (x: ??int)\n", "no type's name"},
		{"strange", "interface a.b\ntype A = (x: int)\n", "no token"},
	} {
		if _, err := Parse(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.want)
		}
	}
}

func TestConform(t *testing.T) {
	i, err := Parse("interface a.b\ntype S (n: int, e: ?E, l: []string)\ntype E (x, y)\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ value, want string }{
		{`{"n":1,"l":[]}`, ""},
		{`{"n":1,"e":"x","l":["a"]}`, ""},
		{`{"n":1,"e":null,"l":[]}`, ""},
		{`{"n":1}`, ".l is missing"},
		{`{"n":1,"l":null}`, ".l: <nil>, and must be []string"},
		{`{"n":1,"l":[null]}`, ".l[0]"},
		{`{"n":1.5,"l":[]}`, ".n: 1.5, and must be int"},
		{`{"n":1,"e":"z","l":[]}`, `.e: "z" is none of`},
		{`{"n":1,"l":[],"m":1}`, ".m is not in the interface"},
		{`[]`, "must be an object"},
	} {
		err := i.Conform(i.Types["S"], []byte(c.value))
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.value, err, c.want)
		}
	}
}
