package safetensors

import (
	"bytes"
	"encoding/binary"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/tensor"
)

func file(header string, body []byte) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), body...)
}

// A file as the format's own description has it.
func TestDecode(t *testing.T) {
	f, err := Decode(file(`{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},"none":{"dtype":"F16","shape":[0,4],"data_offsets":[9,9]}}   `,
		[]byte{7, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40}))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.Names, []string{"b", "a", "none"}) || f.Metadata["format"] != "pt" {
		t.Errorf("names %q, metadata %v", f.Names, f.Metadata)
	}
	for n, w := range map[string]*tensor.Tensor{"b": tensor.New([]float32{1, 2}), "a": tensor.Scalar(uint8(7)), "none": tensor.New([]tensor.F16{}, 0, 4)} {
		if _, _, err := tensor.Compare(f.Tensors[n], w, 0, 0); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
}

func TestThereAndBack(t *testing.T) {
	f := &File{Tensors: map[string]*tensor.Tensor{}, Metadata: map[string]string{"format": "pt", "<é>": "\n"}}
	for _, d := range slices.Sorted(maps.Values(dtypes)) {
		w, err := tensor.Zeros(d, 1, 2)
		if err != nil {
			t.Fatal(err)
		}
		b := w.Bytes()
		b[0], b[len(b)-1] = 1, 1
		f.Names = append(f.Names, "x<"+d.String())
		f.Tensors["x<"+d.String()] = w
	}
	slices.Reverse(f.Names)
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := f.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Names, f.Names) || !maps.Equal(got.Metadata, f.Metadata) {
		t.Errorf("names %q, metadata %q", got.Names, got.Metadata)
	}
	for n, w := range f.Tensors {
		if g := got.Tensors[n]; g.DType() != w.DType() || !slices.Equal(g.Shape(), w.Shape()) || !bytes.Equal(g.Bytes(), w.Bytes()) {
			t.Errorf("%s came back as %s %v", n, g, g.Bytes())
		}
	}
	empty := &File{}
	var b bytes.Buffer
	if err := empty.Encode(&b); err != nil {
		t.Fatal(err)
	}
	if got, err := Decode(b.Bytes()); err != nil || len(got.Names) != 0 {
		t.Errorf("an empty file: %v, %v", got, err)
	}
}

func TestEncodeErrors(t *testing.T) {
	one := tensor.New([]float32{1})
	for name, f := range map[string]*File{
		"string":   {Tensors: map[string]*tensor.Tensor{"a": tensor.New([]string{"x"})}},
		"odd F4":   {Tensors: map[string]*tensor.Tensor{"a": tensor.New([]tensor.F4E2M1{1})}},
		"metadata": {Tensors: map[string]*tensor.Tensor{"__metadata__": one}},
		"names":    {Names: []string{"b"}, Tensors: map[string]*tensor.Tensor{"a": one}},
		"twice":    {Names: []string{"a", "a"}, Tensors: map[string]*tensor.Tensor{"a": one, "b": one}},
	} {
		if err := f.Encode(&bytes.Buffer{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestHostile(t *testing.T) {
	body := make([]byte, 8)
	for name, data := range map[string][]byte{
		"empty":         nil,
		"huge header":   append(bytes.Repeat([]byte{0xff}, 8), '{'),
		"header cut":    file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, body)[:20],
		"no object":     file(`[]`, nil),
		"not closed":    file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`, body),
		"more JSON":     file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}{}`, body),
		"twice":         file(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`, body),
		"type":          file(`{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}`, body),
		"no type":       file(`{"a":{"shape":[2],"data_offsets":[0,8]}}`, body),
		"no shape":      file(`{"a":{"dtype":"F32","data_offsets":[0,8]}}`, body),
		"offsets":       file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,9]}}`, body),
		"backwards":     file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`, body),
		"past the end":  file(`{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}`, body),
		"gap":           file(`{"a":{"dtype":"U8","shape":[7],"data_offsets":[1,8]}}`, body),
		"overlap":       file(`{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`, body),
		"left over":     file(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, body),
		"wrong size":    file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, body),
		"negative":      file(`{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}`, body),
		"overflow":      file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}`, body),
		"rank":          file(`{"a":{"dtype":"F32","shape":[`+strings.Repeat("1,", 70)+`2],"data_offsets":[0,8]}}`, body),
		"fraction":      file(`{"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}}`, body),
		"metadata":      file(`{"__metadata__":{"a":1}}`, nil),
		"half a nibble": file(`{"a":{"dtype":"F4","shape":[15],"data_offsets":[0,8]}}`, body),
	} {
		if got, err := Decode(data); err == nil {
			t.Errorf("%s: no error but %v", name, got.Names)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(file(`{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}`, make([]byte, 9)))
	f.Add(file(`{"a":{"dtype":"F4","shape":[2,2],"data_offsets":[0,2]}} `, make([]byte, 2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Decode(data)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := got.Encode(&b); err != nil {
			t.Fatal(err)
		}
		again, err := Decode(b.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(again.Names, got.Names) {
			t.Fatalf("%q became %q", got.Names, again.Names)
		}
		for n, w := range got.Tensors {
			if _, _, err := tensor.Compare(again.Tensors[n], w, 0, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
}
