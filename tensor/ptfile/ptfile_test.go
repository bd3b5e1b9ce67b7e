package ptfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/tensor"
)

func read(t *testing.T, name string) *File {
	t.Helper()
	f, err := Read(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func check(t *testing.T, f *File, name string, want *tensor.Tensor) {
	t.Helper()
	if _, _, err := tensor.Compare(f.Tensors[name], want, 0, 0); f.Tensors[name] == nil || err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

var (
	weight = tensor.New([]float32{0, 1, 2, 3, 4, 5}, 2, 3)
	bias   = tensor.New([]float32{-1, 1})
	// What state_dict() names, in its order.
	names = []string{"fc.weight", "fc.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
)

func TestStateDicts(t *testing.T) {
	for _, name := range []string{"state.pt", "legacy.pt", "module.pt", "script.pt"} {
		f := read(t, name)
		got := f.Names
		if name == "script.pt" { // keeps no order between a module's parameters and buffers
			got = slices.Sorted(slices.Values(got))
			if !slices.Equal(got, slices.Sorted(slices.Values(names))) {
				t.Errorf("%s: %q", name, got)
			}
		} else if !slices.Equal(got, names) {
			t.Errorf("%s: %q", name, got)
		}
		check(t, f, "fc.weight", weight)
		check(t, f, "fc.bias", bias)
		check(t, f, "norm.num_batches_tracked", tensor.Scalar(int64(0)))
	}
}

func TestTypesAndStrides(t *testing.T) {
	for _, name := range []string{"types.pt", "types_legacy.pt"} {
		f := read(t, name)
		check(t, f, "whole", tensor.New([]float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}))
		check(t, f, "part", tensor.New([]float32{2, 3, 4, 5}))
		check(t, f, "transposed", tensor.New([]float32{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}, 4, 3))
		check(t, f, "stepped", tensor.New([]float32{1, 4, 7, 10}))
		check(t, f, "expanded", tensor.New([]float32{1, 1, 1, 2, 2, 2}, 2, 3))
		check(t, f, "scalar", tensor.Scalar(int64(7)))
		check(t, f, "empty", tensor.New([]float32{}, 0, 3))
		check(t, f, "complex64", tensor.New([]complex64{0, 1, 1}))
		check(t, f, "complex128", tensor.New([]complex128{0, 1, 1}))
		for name, d := range torchTypes {
			if got := f.Tensors[name]; got != nil && !strings.HasPrefix(name, "complex") {
				want, err := tensor.Convert(tensor.New([]float32{0, 1, 1}), d, true)
				if err != nil {
					t.Fatal(err)
				}
				check(t, f, name, want)
			}
		}
		if len(f.Names) != 18 {
			t.Errorf("%s: %d tensors: %q", name, len(f.Names), f.Names)
		}
		// Views of one storage share memory.
		tensor.Data[float32](f.Tensors["whole"])[2] = -5
		if got := tensor.Data[float32](f.Tensors["part"])[0]; got != -5 {
			t.Errorf("%s: the shared element is %v", name, got)
		}
	}
}

func TestCheckpoint(t *testing.T) {
	f := read(t, "checkpoint.pt")
	check(t, f, "state_dict.fc.weight", weight)
	check(t, f, "list.0", tensor.New([]float32{1}))
	check(t, f, "list.1", tensor.New([]float32{0, 0}))
	check(t, f, "param", tensor.New([]float32{1}))
	for _, n := range []string{"optimizer.state.0.step", "optimizer.state.3.exp_avg_sq"} {
		if f.Tensors[n] == nil {
			t.Errorf("no %s in %q", n, f.Names)
		}
	}
}

// archived is a file of PyTorch's with the given pickle and one storage "0".
func archived(t testing.TB, text string, storage []byte) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, data := range map[string][]byte{"a/data.pkl": []byte(text), "a/data/0": storage} {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decode(data []byte) error {
	_, err := Decode(bytes.NewReader(data), int64(len(data)))
	return err
}

// one is the pickle of a float tensor by its storage's length, offset, sizes and strides.
func one(count, offset, size, stride string) string {
	return "\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuI" +
		count + "\ntQI" + offset + "\n(" + size + "t(" + stride + "tI00\nNtR."
}

func TestHostile(t *testing.T) {
	store := make([]byte, 16)
	if err := decode(archived(t, one("4", "0", "I4\n", "I1\n"), store)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no pickle":        "",
		"unknown op":       "\xff.",
		"cut":              one("4", "0", "I4\n", "I1\n")[:40],
		"long string":      "X\xff\xff\xff\xff.",
		"long bytes":       "\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
		"long frame":       "\x80\x04\x95\xff\xff\xff\xff\xff\x00\x00\x00N.",
		"negative string":  "T\xff\xff\xff\xff.",
		"long number":      "I" + strings.Repeat("9", 5000) + "\n.",
		"marks":            strings.Repeat("(", 100_000) + ".",
		"empty stack":      ".",
		"odd items":        "}(K\x01u.",
		"no long":          "\x8a\x00.",
		"unhashable key":   "ccollections\nOrderedDict\n)RC\x01xNs.",
		"huge storage":     one("4611686018427387904", "0", "I4\n", "I1\n"),
		"wrong storage":    one("5", "0", "I4\n", "I1\n"),
		"negative storage": one("-4", "0", "I4\n", "I1\n"),
		"offset":           one("4", "1", "I4\n", "I1\n"),
		"negative offset":  one("4", "-1", "I4\n", "I1\n"),
		"far offset":       one("4", "9223372036854775807", "I1\n", "I1\n"),
		"stride":           one("4", "0", "I4\n", "I2\n"),
		"huge stride":      one("4", "0", "I4\n", "I4611686018427387904\n"),
		"negative stride":  one("4", "3", "I4\n", "I-1\n"),
		"negative size":    one("4", "0", "I-4\n", "I1\n"),
		"rank":             one("4", "0", "I2\nI2\n", "I1\n"),
		"expanded":         one("4", "0", "I1099511627776\n", "I0\n"),
		"overflow":         one("4", "0", "I4294967296\nI4294967296\n", "I0\nI0\n"),
		"sparse":           "ctorch._utils\n_rebuild_sparse_tensor\n)R.",
		"no such storage":  strings.Replace(one("4", "0", "I4\n", "I1\n"), "\x000X", "\x001X", 1),
		"storage class":    strings.Replace(one("4", "0", "I4\n", "I1\n"), "FloatStorage", "QInt8Storage", 1),
		// l0 = [tensor]; each next list holds the last one ten times: 10^9 values in all.
		"bomb": "]q\x00" + strings.Repeat("]q\x01(h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00eq\x00", 9) + ".",
		"self": "]q\x00h\x00a.",
	} {
		if err := decode(archived(t, text, store)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for name, data := range map[string][]byte{
		"empty":  nil,
		"text":   []byte("hello world, this is no pickle"),
		"no zip": []byte("PK\x03\x04 and then nothing"),
	} {
		if err := decode(data); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	for _, name := range []string{"state.pt", "legacy.pt", "types_legacy.pt"} {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(data)-1; n += 7 {
			if decode(data[:n]) == nil {
				t.Errorf("%s cut to %d bytes was read", name, n)
			}
		}
		if _, err := Decode(bytes.NewReader(data), int64(len(data)), Limit(20)); err == nil {
			t.Errorf("%s: the limit was not kept", name)
		}
	}
}

// A pickle that would run a command in Python makes an inert object here, and no tensor.
func TestNoCodeRuns(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ran")
	text := "cposix\nsystem\n(S'touch " + file + "'\ntR."
	data := archived(t, text, nil)
	f, err := Decode(bytes.NewReader(data), int64(len(data)))
	if err != nil || len(f.Names) != 0 {
		t.Errorf("%v, %v", f, err)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the command was run")
	}
}

// Tensors of types younger than the classes of storage.
func TestUntypedStorage(t *testing.T) {
	text := "\x80\x02ctorch._utils\n_rebuild_tensor_v3\n((X\x07\x00\x00\x00storagectorch.storage\nUntypedStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00(K\x04t(K\x01tI00\nNctorch\nfloat8_e5m2\n}tR."
	data := archived(t, text, []byte{0, 0x3c, 0xbc, 0x7c})
	f, err := Decode(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	check(t, f, "tensor", tensor.New([]tensor.F8E5M2{0, 0x3c, 0xbc, 0x7c}))
}

func TestScan(t *testing.T) {
	long := binary.LittleEndian.AppendUint32([]byte("X"), 3)
	for text, want := range map[string]int{
		"N.":                    2,
		"N.rest":                2,
		string(long) + "abc.xx": 9,
		"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N.": 13,
	} {
		if got, err := scan([]byte(text)); err != nil || got != want {
			t.Errorf("%q: want %d, got %d, %v", text, want, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.pt")
	for _, n := range files {
		data, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		Decode(bytes.NewReader(data), int64(len(data)), Limit(1<<20))
	})
}

// The pickle alone, which the checksums of a zip file would keep from being fuzzed.
func FuzzPickle(f *testing.F) {
	f.Add([]byte(one("4", "0", "I4\n", "I1\n")))
	files, _ := filepath.Glob("testdata/*.pt")
	for _, n := range files {
		z, err := zip.OpenReader(n)
		if err != nil {
			continue
		}
		for _, r := range z.File {
			if strings.HasSuffix(r.Name, "/data.pkl") {
				if text, err := record(r, 1<<20, 1<<20); err == nil {
					f.Add(text)
				}
			}
		}
		z.Close()
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		decode(archived(t, string(data), make([]byte, 16)))
	})
}
