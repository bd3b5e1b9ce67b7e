module github.com/retune-go/retune

go 1.26.0

require google.golang.org/protobuf v1.36.12
