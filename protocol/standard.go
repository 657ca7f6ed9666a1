package protocol

import "fmt"

// InvalidParameterError is org.varlink.service.InvalidParameter.
type InvalidParameterError struct {
	Parameter string `json:"parameter"`
}

func (e *InvalidParameterError) wireName() string { return ServiceInterfaceName + ".InvalidParameter" }

func (e *InvalidParameterError) Error() string {
	return fmt.Sprintf("invalid parameter: %s", e.Parameter)
}

// MethodNotFoundError is org.varlink.service.MethodNotFound.
type MethodNotFoundError struct {
	Method string `json:"method"`
}

func (e *MethodNotFoundError) wireName() string { return ServiceInterfaceName + ".MethodNotFound" }

func (e *MethodNotFoundError) Error() string {
	return fmt.Sprintf("the broker has no method %s; it may be older than this client", e.Method)
}

// InterfaceNotFoundError is org.varlink.service.InterfaceNotFound.
type InterfaceNotFoundError struct {
	Interface string `json:"interface"`
}

func (e *InterfaceNotFoundError) wireName() string {
	return ServiceInterfaceName + ".InterfaceNotFound"
}

func (e *InterfaceNotFoundError) Error() string {
	return fmt.Sprintf("there is no interface %s", e.Interface)
}

// PermissionDeniedError is org.varlink.service.PermissionDenied: only root and the broker's
// own user may call the method. It is [ErrDenied] too.
type PermissionDeniedError struct{}

func (e *PermissionDeniedError) wireName() string { return ServiceInterfaceName + ".PermissionDenied" }

// Is reports whether target is [ErrDenied].
func (e *PermissionDeniedError) Is(target error) bool { return target == ErrDenied }

func (e *PermissionDeniedError) Error() string {
	return "permission denied: only root and the user that the broker runs as may do this"
}

// ExpectedMoreError is org.varlink.service.ExpectedMore.
type ExpectedMoreError struct{}

func (e *ExpectedMoreError) wireName() string { return ServiceInterfaceName + ".ExpectedMore" }

func (e *ExpectedMoreError) Error() string {
	return `the method must be called with "more"`
}
