package npy

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/tensor"
)

func file(version byte, head string, body []byte) []byte {
	b := append([]byte(magic), version, 0)
	if version == 1 {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(head)))
	} else {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(head)))
	}
	return append(append(b, head...), body...)
}

// What NumPy wrote (testdata/make.py).
func TestReadNumPy(t *testing.T) {
	iota := func(d tensor.DType, shape ...int) *tensor.Tensor {
		w, err := tensor.Zeros(d, shape...)
		if err != nil {
			t.Fatal(err)
		}
		for i := range w.Len() {
			tensor.SetFloat64At(w, i, float64(i))
		}
		return w
	}
	want := map[string]*tensor.Tensor{
		"c8":         tensor.New([]complex64{0, 1, 2, 3, 4, 5}, 2, 3),
		"c16":        tensor.New([]complex128{0, 1, 2, 3, 4, 5}, 2, 3),
		"big_f4":     iota(tensor.Float32, 2, 3),
		"big_c8":     tensor.New([]complex64{0, 1, 2, 3, 4, 5}, 2, 3),
		"fortran_f4": iota(tensor.Float32, 2, 3, 4),
		"fortran_U":  tensor.New([]string{"a", "bc", "", "déjà", "x", "\U0001F600"}, 3, 2),
		"bytes":      tensor.New([]string{"ab", "c"}),
		"big_U":      tensor.New([]string{"héllo", "w"}),
		"bool":       tensor.New([]bool{true, false, true}),
		"scalar":     tensor.Scalar(2.5),
		"empty":      iota(tensor.Float32, 3, 0, 2),
		"version2":   iota(tensor.Int64, 3),
		"version3":   iota(tensor.Int64, 3),
	}
	for _, c := range codes {
		if c.d != tensor.Bool && want[c.code] == nil {
			want[c.code] = iota(c.d, 2, 3)
		}
	}
	for name, w := range want {
		got, err := Read(filepath.Join("testdata", name+".npy"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, _, err := tensor.Compare(got, w, 0, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"plain.npz", "packed.npz"} {
		a, err := OpenNPZ(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a.Names, []string{"z", "a"}) {
			t.Errorf("%s: names %q", name, a.Names)
		}
		if _, _, err := tensor.Compare(a.Arrays["a"], tensor.New([]int32{1, 2}), 0, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What we write is, byte for byte, what NumPy writes.
func TestWriteAsNumPy(t *testing.T) {
	for _, name := range []string{"f2", "f4", "f8", "i1", "i8", "u4", "c8", "c16", "bool", "scalar", "empty"} {
		want, err := os.ReadFile(filepath.Join("testdata", name+".npy"))
		if err != nil {
			t.Fatal(err)
		}
		a, err := Decode(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Encode(a)
		if err != nil {
			t.Fatal(err)
		}
		// NumPy pads a header to leave room to grow; only the length of that padding may differ.
		if h := bytes.IndexByte(want, '\n'); !bytes.Equal(bytes.TrimRight(got[10:bytes.IndexByte(got, '\n')], " "), bytes.TrimRight(want[10:h], " ")) ||
			!bytes.Equal(got[bytes.IndexByte(got, '\n'):], want[h:]) || bytes.IndexByte(got, '\n')%64 != 63 {
			t.Errorf("%s:\n got %q\nwant %q", name, got, want)
		}
	}
}

func TestThereAndBack(t *testing.T) {
	dir := t.TempDir()
	arrays := map[string]*tensor.Tensor{
		"strings":     tensor.New([]string{"", "a", "日本\U0001F600", "x\x00y"}, 2, 2),
		"none":        tensor.New([]string{}, 0),
		"/h_0/MatMul": tensor.New([]float32{1, float32(math.NaN()), float32(math.Inf(-1))}, 3, 1),
		"scalar":      tensor.Scalar(int64(-7)),
		"deep":        tensor.New([]bool{true}, slices.Repeat([]int{1}, 64)...),
	}
	path := filepath.Join(dir, "x.npz")
	if err := WriteNPZ(path, arrays); err != nil {
		t.Fatal(err)
	}
	got, err := ReadNPZ(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(arrays) {
		t.Errorf("%d arrays came back", len(got))
	}
	for n, w := range arrays {
		if _, _, err := tensor.Compare(got[n], w, 0, 0); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	// Types that NumPy has not.
	wide := filepath.Join(dir, "x.npy")
	for _, c := range []struct{ in, want *tensor.Tensor }{
		{tensor.New([]tensor.BF16{tensor.BF16From(1.5)}), tensor.New([]float32{1.5})},
		{tensor.New([]tensor.F8E4M3FN{tensor.F8E4M3FNFrom(448, true)}), tensor.New([]float32{448})},
		{tensor.New([]tensor.I4{-8, 7}), tensor.New([]int8{-8, 7})},
		{tensor.New([]tensor.U2{3}), tensor.New([]uint8{3})},
	} {
		if err := Write(wide, c.in); err != nil {
			t.Fatal(err)
		}
		back, err := Read(wide)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := tensor.Compare(back, c.want, 0, 0); err != nil {
			t.Errorf("%s: %v", c.in, err)
		}
	}
	if _, err := Encode(tensor.New([]string{"a\x00"})); err == nil {
		t.Error("a NUL at the end was lost")
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("files are left behind: %v", files)
	}
}

func TestHostile(t *testing.T) {
	f4 := "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }\n"
	for name, data := range map[string][]byte{
		"empty":          nil,
		"magic only":     []byte(magic),
		"no header":      file(1, "", nil),
		"header cut":     file(1, fmt.Sprintf(f4, "2,"), nil)[:30],
		"long header":    append([]byte(magic), 2, 0, 0xff, 0xff, 0xff, 0xff),
		"version 9":      file(9, fmt.Sprintf(f4, "1,"), make([]byte, 4)),
		"2^60 elements":  file(1, fmt.Sprintf(f4, "1152921504606846976,"), make([]byte, 64)),
		"overflow":       file(1, fmt.Sprintf(f4, "4294967296, 4294967296"), nil),
		"overflow by 0":  file(1, fmt.Sprintf(f4, "4294967296, 4294967297, 0"), make([]byte, 4)),
		"negative":       file(1, fmt.Sprintf(f4, "-1,"), make([]byte, 4)),
		"no number":      file(1, fmt.Sprintf(f4, "x,"), make([]byte, 4)),
		"too short":      file(1, fmt.Sprintf(f4, "3,"), make([]byte, 8)),
		"too long":       file(1, fmt.Sprintf(f4, "3,"), make([]byte, 16)),
		"many dims":      file(1, fmt.Sprintf(f4, strings.Repeat("1,", 65)), make([]byte, 4)),
		"objects":        file(1, strings.Replace(fmt.Sprintf(f4, "1,"), "<f4", "|O", 1), make([]byte, 4)),
		"records":        file(1, "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", make([]byte, 4)),
		"dates":          file(1, strings.Replace(fmt.Sprintf(f4, "1,"), "f4", "M8", 1), make([]byte, 8)),
		"wide float":     file(1, strings.Replace(fmt.Sprintf(f4, "1,"), "f4", "f16", 1), make([]byte, 16)),
		"empty strings":  file(1, strings.Replace(fmt.Sprintf(f4, "1099511627776,"), "f4", "U0", 1), nil),
		"string of 2^30": file(1, strings.Replace(fmt.Sprintf(f4, "1,"), "f4", "U999999999", 1), make([]byte, 4)),
		"no string size": file(1, strings.Replace(fmt.Sprintf(f4, "1,"), "f4", "U", 1), make([]byte, 4)),
	} {
		if got, err := Decode(data); err == nil {
			t.Errorf("%s: no error but %s", name, got)
		}
	}
	if _, err := Decode(file(1, fmt.Sprintf(f4, "4,"), make([]byte, 16)), Limit(15)); err == nil {
		t.Error("the limit was not kept")
	}
}

func zipped(t testing.TB, entries ...[]byte) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, e := range entries {
		w, err := z.Create(fmt.Sprintf("a%d.npy", i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestHostileNPZ(t *testing.T) {
	array := file(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (65536,), }\n", make([]byte, 4*65536))
	open := func(data []byte, opts ...Option) error {
		_, err := DecodeNPZ(bytes.NewReader(data), int64(len(data)), opts...)
		return err
	}
	good := zipped(t, array, array)
	if err := open(good); err != nil {
		t.Fatal(err)
	}
	if err := open(good, Limit(400_000)); err == nil {
		t.Error("two arrays of 262144 bytes were within 400000")
	}
	// An entry that says it unpacks to 4 GB.
	lie := bytes.Clone(good)
	at := bytes.LastIndex(lie, []byte("PK\x01\x02"))
	binary.LittleEndian.PutUint32(lie[at+24:], math.MaxUint32-1)
	if err := open(lie); err == nil {
		t.Error("a claim of 4 GB was believed")
	}
	spoilt := bytes.Clone(good)
	spoilt[at+16] ^= 1 // the checksum
	if err := open(spoilt); err == nil {
		t.Error("a wrong checksum went unseen")
	}
	if err := open(good[:len(good)-10]); err == nil {
		t.Error("a truncated archive was read")
	}
	if _, err := OpenNPZ(filepath.Join(t.TempDir(), "none.npz")); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestStringsOfBytes(t *testing.T) {
	x := tensor.New([]string{"\xff\x00a", "ü", ""}, 3)
	data, err := Encode(x)
	if err != nil {
		t.Fatal(err)
	}
	y, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tensor.Compare(y, x, 0, 0); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	names, _ := filepath.Glob("testdata/*.npy")
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := Decode(data, Limit(1<<20))
		if err != nil {
			return
		}
		again, err := Encode(a)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Decode(again)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := tensor.Compare(b, a, 0, 0); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeNPZ(f *testing.F) {
	for _, n := range []string{"plain.npz", "packed.npz"} {
		data, err := os.ReadFile(filepath.Join("testdata", n))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		DecodeNPZ(bytes.NewReader(data), int64(len(data)), Limit(1<<20))
	})
}
