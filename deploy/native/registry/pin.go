//go:build tools

// Package registry names the program to build, so that `go mod tidy` keeps its requirement.
package registry

import _ "github.com/axonops/axonops-schema-registry/cmd/schema-registry"
