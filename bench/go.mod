module github.com/retune-go/retune/bench

go 1.26.0

require github.com/retune-go/retune v0.0.0

require (
	github.com/edsrzf/mmap-go v1.2.0 // indirect
	github.com/x448/float16 v0.8.4 // indirect
	github.com/yalue/onnxruntime_go v1.27.0
	golang.org/x/sys v0.49.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/retune-go/retune => ../
