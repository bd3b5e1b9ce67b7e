package onnx_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/onnx/internal/onnxpb"
	"github.com/retune-go/retune/tensor"
)

// weights is a model with one initializer of n floats and one of a few bytes.
func weights(t testing.TB, n int) *onnx.Model {
	b := onnx.NewBuilder("weights", 21)
	data := make([]float32, n)
	for i := range data {
		data[i] = float32(i)
	}
	w := b.Init("w", tensor.New(data))
	s := b.Init("s", tensor.New([]tensor.I4{-8, 7, 3}))
	b.Output("y", b.Op("Relu", w), tensor.Float32, n)
	b.Output("z", b.Op("Identity", s), tensor.Int4, 3)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func sameWeights(t testing.TB, m, want *onnx.Model) {
	t.Helper()
	for _, v := range want.Graph.Inits {
		w := m.Graph.Init(v.Name)
		if w == nil {
			t.Fatalf("no %q", v.Name)
		}
		if _, _, err := tensor.Compare(w.Const, v.Const, 0, 0); err != nil {
			t.Errorf("%q: %v", v.Name, err)
		}
	}
}

func TestExternalDataIsWritten(t *testing.T) {
	for _, c := range []struct {
		name string
		opts []onnx.SaveOption
		file string
	}{
		{"asked for", []onnx.SaveOption{onnx.ExternalData("sub.bin", 100)}, "sub.bin"},
		{"everything", []onnx.SaveOption{onnx.ExternalData("all.bin", 0)}, "all.bin"},
		{"too large", []onnx.SaveOption{onnx.SizeLimit(5000)}, "m.onnx.data"},
		{"small enough", []onnx.SaveOption{onnx.SizeLimit(50000)}, ""},
		{"none of that size", []onnx.SaveOption{onnx.ExternalData("none.bin", 1<<20)}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := weights(t, 3000)
			path := filepath.Join(t.TempDir(), "m.onnx")
			for range 2 { // the second time over the first
				if err := onnx.Save(path, m, c.opts...); err != nil {
					t.Fatal(err)
				}
				back, err := onnx.Load(path)
				if err != nil {
					t.Fatal(err)
				}
				sameWeights(t, back, m)
			}
			files, err := os.ReadDir(filepath.Dir(path))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range files {
				got = append(got, f.Name())
			}
			want := "m.onnx"
			if c.file != "" {
				want = strings.TrimSpace("m.onnx " + c.file)
				if c.file < "m.onnx" {
					want = c.file + " m.onnx"
				}
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if len(data) > 1000 {
					t.Errorf("%d bytes are left in the model", len(data))
				}
				if _, err := onnx.Decode(data); err == nil {
					t.Error("decoded without a folder")
				}
				if m2, err := onnx.Decode(data, onnx.DataFS(os.DirFS(filepath.Dir(path)))); err != nil {
					t.Error(err)
				} else {
					sameWeights(t, m2, m)
				}
				if m2, err := onnx.LoadFS(os.DirFS(filepath.Dir(path)), "m.onnx"); err != nil {
					t.Error(err)
				} else {
					sameWeights(t, m2, m)
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("files %v, want %q", got, want)
			}
		})
	}
	for _, file := range []string{"../x.bin", "/x.bin", "m.onnx", "."} {
		dir := t.TempDir()
		if err := onnx.Save(filepath.Join(dir, "m.onnx"), weights(t, 10), onnx.ExternalData(file, 1)); err == nil {
			t.Errorf("external data in %q", file)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%q leaves %v", file, left)
		}
	}
}

// A save that fails leaves what was there, and nothing else.
func TestFailedSave(t *testing.T) {
	good, bad := weights(t, 3000), weights(t, 3000)
	bad.Graph.Nodes[0].Opset = 1
	for _, opts := range [][]onnx.SaveOption{nil, {onnx.ExternalData("w.bin", 1)}, {onnx.ExternalData("w.bin", 1<<20), onnx.SizeLimit(100)}} {
		dir := t.TempDir()
		path := filepath.Join(dir, "m.onnx")
		if err := onnx.Save(path, good, onnx.ExternalData("w.bin", 100)); err != nil {
			t.Fatal(err)
		}
		m := bad
		if len(opts) == 2 {
			m = good // it fails by its size
		}
		if err := onnx.Save(path, m, opts...); err == nil {
			t.Fatal("it was saved")
		}
		back, err := onnx.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		sameWeights(t, back, good)
		if files, _ := os.ReadDir(dir); len(files) != 2 {
			t.Errorf("left behind: %v", files)
		}
	}
	if err := onnx.Save(filepath.Join(t.TempDir(), "none", "m.onnx"), good); err == nil {
		t.Error("saved in a folder that is not there")
	}
	if _, err := os.Stat("/dev/full"); err == nil {
		if err := onnx.Save("/dev/full", good); err == nil || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("a full disk: %v", err)
		}
		if st, err := os.Stat("/dev/full"); err != nil || st.Mode().IsRegular() {
			t.Error("the device is gone")
		}
	}
}

// Weights of a large file are not copied, and what is written to them stays in the process.
func TestLargeFilesAreMapped(t *testing.T) {
	const n = 16 * onnx.MapFrom / 4
	path := filepath.Join(t.TempDir(), "m.onnx")
	if err := onnx.Save(path, weights(t, n)); err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := onnx.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; runtime.GOOS == "linux" && used > 1<<20 {
		t.Errorf("loading %d bytes allocated %d", len(was), used)
	}
	w := tensor.Data[float32](m.Graph.Init("w").Const)
	if w[n-1] != n-1 {
		t.Errorf("the last weight is %v", w[n-1])
	}
	for i := range w {
		w[i] = -1
	}
	if is, err := os.ReadFile(path); err != nil || !bytes.Equal(was, is) {
		t.Errorf("the file changed (%v)", err)
	}
	if err := onnx.Save(path, m); err != nil { // over the file that is mapped
		t.Fatal(err)
	}
	if w[0] != -1 {
		t.Error("saving changed the weights")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if m, err = onnx.Load(path); err != nil || tensor.Data[float32](m.Graph.Init("w").Const)[5] != -1 {
		t.Fatalf("read back: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

// Decode leaves the bytes that it is given as they are.
func TestDecodeKeepsItsBytes(t *testing.T) {
	p := &onnxpb.ModelProto{Graph: &onnxpb.GraphProto{Initializer: []*onnxpb.TensorProto{
		{Name: proto.String("b"), DataType: proto.Int32(int32(tensor.Bool)), Dims: []int64{3}, RawData: []byte{0, 1, 255}}}}}
	data, err := proto.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	was := bytes.Clone(data)
	m, err := onnx.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(tensor.Data[bool](m.Graph.Init("b").Const)); got != "[false true true]" || !bytes.Equal(data, was) {
		t.Errorf("%s", got)
	}
}

// at is a model whose initializer of four floats lies where entries say.
func at(t testing.TB, entries ...string) []byte {
	w := &onnxpb.TensorProto{Name: proto.String("w"), DataType: proto.Int32(1), Dims: []int64{4}, DataLocation: proto.Int32(1)}
	for i := 0; i < len(entries); i += 2 {
		w.ExternalData = append(w.ExternalData, &onnxpb.StringStringEntryProto{Key: &entries[i], Value: &entries[i+1]})
	}
	data, err := proto.Marshal(&onnxpb.ModelProto{Graph: &onnxpb.GraphProto{Initializer: []*onnxpb.TensorProto{w}}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestExternalDataAttacks(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(dir, "model")
	for _, d := range []string{model, filepath.Join(model, "sub"), filepath.Join(dir, "outside")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(dir, "outside", "w.bin")
	for _, f := range []string{secret, filepath.Join(model, "w.bin"), filepath.Join(model, "sub", "w.bin")} {
		if err := os.WriteFile(f, make([]byte, 20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"link.bin": secret, "near.bin": "w.bin", "linkdir": filepath.Join(dir, "outside"), "loop": "loop"} {
		if err := os.Symlink(to, filepath.Join(model, name)); err != nil {
			t.Skipf("skipped: %v", err)
		}
	}
	makeFIFO(t, filepath.Join(model, "fifo"))
	path := filepath.Join(model, "m.onnx")
	for _, c := range []struct {
		entries []string
		ok      bool
		opts    []onnx.LoadOption
	}{
		{[]string{"location", "w.bin", "length", "16"}, true, nil},
		{[]string{"location", "./sub/../sub/w.bin", "offset", "4"}, true, nil},
		{[]string{"location", "link.bin", "length", "16"}, true, []onnx.LoadOption{onnx.FollowSymlinks()}},
		{[]string{"location", "w.bin"}, false, nil},
		{[]string{"location", "w.bin", "offset", "8", "length", "16"}, false, nil},
		{[]string{"location", "w.bin", "offset", "-4", "length", "16"}, false, nil},
		{[]string{"location", "w.bin", "offset", "9223372036854775807", "length", "16"}, false, nil},
		{[]string{"location", "w.bin", "offset", "4", "length", "9223372036854775807"}, false, nil},
		{[]string{"location", "w.bin", "length", "-1"}, false, nil},
		{[]string{"location", "w.bin", "length", "16x"}, false, nil},
		{[]string{"length", "16"}, false, nil},
		{[]string{"location", "", "length", "16"}, false, nil},
		{[]string{"location", "../outside/w.bin", "length", "16"}, false, nil},
		{[]string{"location", "../outside/w.bin", "length", "16"}, false, []onnx.LoadOption{onnx.FollowSymlinks()}},
		{[]string{"location", "sub/../../outside/w.bin", "length", "16"}, false, nil},
		{[]string{"location", secret, "length", "16"}, false, nil},
		{[]string{"location", secret, "length", "16"}, false, []onnx.LoadOption{onnx.FollowSymlinks()}},
		{[]string{"location", "/etc/passwd", "length", "16"}, false, nil},
		{[]string{"location", "link.bin", "length", "16"}, false, nil},
		{[]string{"location", "near.bin", "length", "16"}, false, nil},
		{[]string{"location", "linkdir/w.bin", "length", "16"}, false, nil},
		{[]string{"location", "loop", "length", "16"}, false, nil},
		{[]string{"location", "fifo", "length", "16"}, false, nil},
		{[]string{"location", "sub", "length", "16"}, false, nil},
		{[]string{"location", "none.bin", "length", "16"}, false, nil},
		{[]string{"location", "w.bin\x00", "length", "16"}, false, nil},
	} {
		if err := os.WriteFile(path, at(t, c.entries...), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := onnx.Load(path, c.opts...)
		if c.ok != (err == nil) {
			t.Errorf("%q: %v", c.entries, err)
		}
		if err != nil && (strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), `"w"`)) {
			t.Errorf("%q: the error does not say file and weight in a line: %v", c.entries, err)
		}
	}
	fsys := fstest.MapFS{"a/m.onnx": {Data: at(t, "location", "w.bin")}, "a/w.bin": {Data: make([]byte, 16)}, "w.bin": {Data: make([]byte, 16)},
		"b/m.onnx": {Data: at(t, "location", "../w.bin")}}
	if _, err := onnx.LoadFS(fsys, "a/m.onnx"); err != nil {
		t.Error(err)
	}
	if _, err := onnx.LoadFS(fsys, "b/m.onnx"); err == nil {
		t.Error("left the folder of a file system")
	}
}

// FuzzExternalData: whatever a model says of where its weights are, they come from files beside it or not at all.
func FuzzExternalData(f *testing.F) {
	for _, c := range [][3]string{{"w.bin", "0", "16"}, {"sub/../w.bin", "4", ""}, {"../outside.bin", "-1", "9223372036854775807"}, {"link.bin", "", "16"}} {
		f.Add(c[0], c[1], c[2])
	}
	dir := f.TempDir()
	model := filepath.Join(dir, "model")
	if err := os.MkdirAll(filepath.Join(model, "sub"), 0o755); err != nil {
		f.Fatal(err)
	}
	secret := filepath.Join(dir, "outside.bin")
	for name, fill := range map[string]byte{secret: 0x55, filepath.Join(model, "w.bin"): 0} {
		if err := os.WriteFile(name, bytes.Repeat([]byte{fill}, 20), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.Symlink(secret, filepath.Join(model, "link.bin")); err != nil {
		f.Logf("without a link: %v", err)
	}
	path := filepath.Join(model, "m.onnx")
	f.Fuzz(func(t *testing.T, location, offset, length string) {
		if !utf8.ValidString(location) || !utf8.ValidString(offset) || !utf8.ValidString(length) {
			return // a file has no such strings
		}
		if err := os.WriteFile(path, at(t, "location", location, "offset", offset, "length", length), 0o644); err != nil {
			t.Fatal(err)
		}
		m, err := onnx.Load(path)
		if err != nil {
			return
		}
		defer m.Close()
		for _, v := range m.Graph.Inits {
			if bytes.Contains(v.Const.Bytes(), []byte{0x55}) {
				t.Errorf("%q at %q: read from outside the model's folder", location, offset)
			}
		}
	})
}
