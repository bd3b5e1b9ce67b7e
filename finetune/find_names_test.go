package finetune

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Of each export, the places that the script that made it knew of are found again from the tensors alone.
func TestFindNames(t *testing.T) {
	dirs := exports(t, "names.json")
	if *parityFolder != "" {
		more, err := filepath.Glob(filepath.Join(*parityFolder, "*", "float32", "names.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range more {
			dirs = append(dirs, filepath.Dir(file))
		}
	}
	for _, dir := range dirs {
		t.Run(modelName(dir), func(t *testing.T) { findsNames(t, dir) })
	}
}

func findsNames(t *testing.T, dir string) {
	m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	want := readNames(t, dir)
	liftWeights(m.Graph, want, false)
	dict, lost, err := want.StateDict(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range lost { // what went into other weights
		if len(want[name].Shape) > 0 {
			x, err := tensor.Zeros(tensor.Float32, want[name].Shape...)
			if err != nil {
				t.Fatal(err)
			}
			for i := range x.Len() {
				tensor.SetFloat64At(x, i, float64(i)+0.123)
			}
			dict[name] = x
		}
	}
	var buffers []string
	for name, o := range want {
		if o.Buffer {
			buffers = append(buffers, name)
		}
	}
	got, doubts, err := FindNames(m, dict, buffers)
	if err != nil {
		t.Fatal(err)
	}
	if doubts != nil {
		t.Logf("doubts: %v", doubts)
	}
	for _, name := range slices.Sorted(maps.Keys(dict)) {
		w, g := want[name], got[name]
		if w.lost() != g.lost() || w.Buffer && !g.Buffer || !slices.Equal(w.Shape, g.Shape) || len(w.Parts) != len(g.Parts) {
			t.Errorf("%s: %+v, want %+v", name, g, w)
			continue
		}
		places := func(o Origin) []string {
			if oneNumber(dict[name]) {
				return []string{o.Initializer}
			}
			return slices.Sorted(slices.Values(append([]string{o.Initializer}, o.Also...)))
		}
		if !slices.Equal(places(w), places(g)) || w.Direction != g.Direction || w.Offset != g.Offset {
			t.Errorf("%s: %+v, want %+v", name, g, w)
		}
	}
	back, _, err := got.StateDict(m)
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range back {
		if !same(x, dict[name]) {
			t.Errorf("%s comes back otherwise", name)
		}
	}
}

// Tensors of one number are told apart by the names of what reads them; where nothing tells, that is said. Renamed, the model is the same.
func TestFindNamesOfEqualTensors(t *testing.T) {
	b := onnx.NewBuilder("g", 17)
	x := b.Input("x", tensor.Float32, "n", 2)
	ones := func() *tensor.Tensor { return tensor.New([]float32{1, 1}, 2) }
	scale := func(node, weight string) {
		x = b.Op("Mul", x, b.Init(weight, ones()))
		x.Def().Name = node
	}
	scale("/first/Mul", "onnx::Mul_1")
	scale("/second/Mul", "onnx::Mul_2")
	scale("Mul_3", "onnx::Mul_3")
	scale("Mul_4", "onnx::Mul_4")
	x = b.Op("MatMul", x, b.Init("onnx::MatMul_5", tensor.New([]float32{1, 2, 3, 4, 5, 6}, 2, 3)))
	b.Output("y", x, tensor.Float32, "n", 3)
	m, err := b.Model()
	if err != nil {
		t.Fatal(err)
	}
	dict := map[string]*tensor.Tensor{"second.scale": ones(), "first.scale": ones(), "a.scale": ones(), "b.scale": ones(),
		"fc.weight": tensor.New([]float32{1, 4, 2, 5, 3, 6}, 3, 2), "bn.weight": tensor.New([]float32{7, 8}, 2), "bn.num_batches_tracked": tensor.Scalar(int64(3))}
	n, doubts, err := FindNames(m, dict, []string{"first.*"})
	if err != nil {
		t.Fatal(err)
	}
	for name, initializer := range map[string]string{"first.scale": "onnx::Mul_1", "second.scale": "onnx::Mul_2", "a.scale": "onnx::Mul_3", "b.scale": "onnx::Mul_4",
		"fc.weight": "onnx::MatMul_5", "bn.weight": "", "bn.num_batches_tracked": ""} {
		if n[name].Initializer != initializer {
			t.Errorf("%s is in %q, want %q", name, n[name].Initializer, initializer)
		}
	}
	if len(doubts) != 2 || !strings.HasPrefix(doubts[0], "a.scale: ") || !strings.HasPrefix(doubts[1], "b.scale: ") {
		t.Errorf("doubts: %q", doubts)
	}
	if !n["first.scale"].Buffer || n["second.scale"].Buffer || !n["bn.num_batches_tracked"].Buffer {
		t.Error("buffers are taken for parameters, or parameters for buffers")
	}
	text, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseNames(text); err != nil || !reflect.DeepEqual(again, n) {
		t.Errorf("as JSON: %v %+v", err, again)
	}
	if count := n.Rename(m); count != 5 || m.Graph.Init("fc.weight") == nil || m.Graph.Init("b.scale") == nil {
		t.Errorf("%d are renamed", count)
	}
	if err := onnx.Check(m); err != nil {
		t.Error(err)
	}
}
