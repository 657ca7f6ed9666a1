package systemdtest

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
)

// Conform returns what is wrong with a JSON value that must be of type t: a field that
// is missing or unknown, null where there must be a value, or another type.
func (i Interface) Conform(t Type, value []byte) error {
	var v any
	if err := json.Unmarshal(value, &v); err != nil {
		return err
	}
	return i.conform(t, v, "")
}

func (i Interface) conform(t Type, v any, at string) error {
	switch {
	case v == nil && t.Nullable:
		return nil
	case t.Array:
		list, ok := v.([]any)
		if !ok {
			return fmt.Errorf("%s: %T, and must be %s", at, v, t)
		}
		for n, e := range list {
			if err := i.conform(t.element(), e, fmt.Sprintf("%s[%d]", at, n)); err != nil {
				return err
			}
		}
		return nil
	case t.Map:
		m, ok := v.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: %T, and must be %s", at, v, t)
		}
		for k, e := range m {
			if err := i.conform(t.element(), e, at+"["+k+"]"); err != nil {
				return err
			}
		}
		return nil
	case t.Name != "" && !builtin[t.Name]:
		return i.conform(i.Types[t.Name], v, at)
	case t.Name != "":
		if !basic(t.Name, v) {
			return fmt.Errorf("%s: %v, and must be %s", at, v, t)
		}
		return nil
	case len(t.Enum) > 0:
		if s, ok := v.(string); !ok || !slices.Contains(t.Enum, s) {
			return fmt.Errorf("%s: %q is none of %q", at, v, t.Enum)
		}
		return nil
	}
	return i.conformStruct(t, v, at)
}

func (i Interface) conformStruct(t Type, v any, at string) error {
	m, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("%s: %T, and must be an object", at, v)
	}
	known := make(map[string]bool)
	for _, f := range t.Fields {
		known[f.Name] = true
		e, ok := m[f.Name]
		switch {
		case !ok && !f.Type.Nullable:
			return fmt.Errorf("%s.%s is missing", at, f.Name)
		case ok:
			if err := i.conform(f.Type, e, at+"."+f.Name); err != nil {
				return err
			}
		}
	}
	for name := range m {
		if !known[name] {
			return fmt.Errorf("%s.%s is not in the interface", at, name)
		}
	}
	return nil
}

// element is the type of what is in an array or a map.
func (t Type) element() Type { return Type{Name: t.Name, Nullable: t.NullableElement} }

// basic reports whether v is of a type that the language has.
func basic(name string, v any) bool {
	switch name {
	case "bool":
		_, ok := v.(bool)
		return ok
	case "string":
		_, ok := v.(string)
		return ok
	case "int":
		n, ok := v.(float64)
		return ok && big.NewFloat(n).IsInt()
	case "float":
		_, ok := v.(float64)
		return ok
	case "object":
		_, ok := v.(map[string]any)
		return ok
	}
	return true
}
