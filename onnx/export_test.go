package onnx

// SizeLimit is the size from which Save writes external data, for tests that cannot make 2 GB.
func SizeLimit(n int) SaveOption { return func(o *saveOptions) { o.limit = n } }

// MapFrom is the size from which files are mapped.
const MapFrom = mapFrom
