// The registry's own `go install` is refused: its module has no list of versions. So this one asks
// for it, and `go build` makes the program.
module runwire.native/registry

go 1.26.0

require github.com/axonops/axonops-schema-registry v0.2.1
