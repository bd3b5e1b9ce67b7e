package cli

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/retune-go/retune/internal/testkit"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/ops"
	"github.com/retune-go/retune/runtime"
	"github.com/retune-go/retune/tensor"
)

// symbolic counts what inference knows, before a run, of the floating-point values of models: of all of them, of how many the shape is
// known for every size of the inputs; and the operators at which knowledge ends.
type symbolic struct {
	values, known int
	dims, terms   int
	tried         int // dimensions that are known for other sizes
	ends          map[string]int
}

// namings are the ways in which a model's inputs may leave their sizes open: as they are declared; each size by a name of its own; sizes that
// are equal in the recorded run by the same name, but for those of 1, which stay.
var namings = map[string]func(input string, axis, size int, declared onnx.Dim) onnx.Dim{
	"declared": func(_ string, _, _ int, d onnx.Dim) onnx.Dim { return d },
	"distinct": func(input string, axis, _ int, _ onnx.Dim) onnx.Dim {
		return onnx.Dim{Value: -1, Param: fmt.Sprintf("%s.%d", input, axis)}
	},
	"shared": func(_ string, _, size int, _ onnx.Dim) onnx.Dim {
		if size == 1 {
			return onnx.Dim{Value: 1}
		}
		return onnx.Dim{Value: -1, Param: fmt.Sprintf("size%d", size)}
	},
}

// check infers the shapes of a case's model for open sizes, runs it on the recorded inputs, and holds every shape and every element that is
// known before the run against what the run gives.
func (s *symbolic) check(t *testing.T, dir, naming string) {
	if _, skip := skips[filepath.Base(dir)]; skip {
		return
	}
	m, err := onnx.Load(filepath.Join(dir, "model.onnx"))
	if err != nil {
		t.Error(err)
		return
	}
	args, err := readInputs(filepath.Join(dir, "test_data_set_0"), m)
	if err != nil {
		t.Error(err)
		return
	}
	if m, err = runtime.Expand(m); err != nil {
		return // not supported, which other tests are about
	}
	name, sizes := namings[naming], map[string]int{}
	for _, in := range m.Graph.Inputs {
		x, ok := args[in.Name].(*tensor.Tensor)
		if !ok || in.Const != nil || in.Type == nil {
			continue
		}
		open := *in.Type
		if open.Shape != nil || naming != "declared" {
			open.Shape = make([]onnx.Dim, x.Rank())
			for k, size := range x.Shape() {
				declared := onnx.Dim{Value: -1}
				if k < len(in.Type.Shape) {
					declared = in.Type.Shape[k]
				}
				if open.Shape[k] = name(in.Name, k, size, declared); open.Shape[k].Param != "" {
					sizes[open.Shape[k].Param] = size
				}
			}
		}
		in.Type = &open
	}
	m.Graph.Outputs = nil // of all nodes: names are given once
	for _, n := range m.Graph.Nodes {
		for _, v := range n.Outputs {
			if v != nil {
				m.Graph.Outputs = append(m.Graph.Outputs, v)
			}
		}
	}
	infos, err := runtime.Infer(m)
	if err != nil {
		t.Errorf("%s (%s): inference is stricter than the run: %v", filepath.Base(dir), naming, err)
		return
	}
	session, err := runtime.NewSession(m, runtime.WithoutPass("all"), runtime.Threads(1))
	if err != nil {
		t.Errorf("%s (%s): %v", filepath.Base(dir), naming, err)
		return
	}
	defer session.Close()
	got, err := session.Run(context.Background(), args)
	if err != nil {
		t.Errorf("%s (%s): %v", filepath.Base(dir), naming, err)
		return
	}
	// What hangs on data is known by the name of a value and an axis of it.
	fresh := maps.Clone(sizes)
	for name, v := range got {
		if x, ok := v.(*tensor.Tensor); ok {
			for k, size := range x.Shape() {
				fresh[fmt.Sprintf("%s[%d]", name, k)] = size
			}
		}
	}
	for name, v := range args {
		if x, ok := v.(*tensor.Tensor); ok {
			for k, size := range x.Shape() {
				fresh[fmt.Sprintf("%s[%d]", name, k)] = size
				sizes[fmt.Sprintf("%s[%d]", name, k)] = size
			}
		}
	}
	eval := func(d ops.Dim) (n int64, known, follows bool) {
		n, known = d.Eval(func(name string) (int, bool) { n, ok := fresh[name]; return n, ok })
		_, follows = d.Eval(func(name string) (int, bool) { n, ok := sizes[name]; return n, ok })
		return n, known, follows
	}
	s.other(t, filepath.Base(dir)+" ("+naming+")", m, infos, sizes)
	whole := map[*onnx.Value]bool{} // whose shape follows from those of the inputs
	known := func(v *onnx.Value, i ops.Info, x *tensor.Tensor) bool {
		if !i.Ranked {
			return false
		}
		if i.Rank() != x.Rank() {
			t.Errorf("%s (%s): %s of %s has shape %v, where %v was inferred", filepath.Base(dir), naming, v.Name, v.Def().Op, x.Shape(), i.Shape)
			return false
		}
		all := true
		for k, d := range i.Shape {
			n, ok, follows := eval(d)
			all = all && follows
			s.dims++
			if ok {
				s.terms++
			}
			if ok && n != int64(x.Shape()[k]) {
				t.Errorf("%s (%s): %s of %s has shape %v, where %v was inferred", filepath.Base(dir), naming, v.Name, v.Def().Op, x.Shape(), i.Shape)
			}
		}
		return all
	}
	for _, n := range m.Graph.Nodes {
		from := true
		for _, v := range n.Inputs {
			if v != nil && v.Def() != nil {
				from = from && whole[v]
			}
		}
		for _, v := range n.Outputs {
			if v == nil {
				continue
			}
			x, ok := got[v.Name].(*tensor.Tensor)
			i := infos[v]
			if !ok {
				continue
			}
			whole[v] = known(v, i, x)
			if x.DType().IsFloat() {
				s.values++
				if whole[v] {
					s.known++
				}
			}
			if !whole[v] && from {
				s.ends[n.Op]++
			}
			if i.Values != nil {
				elements, err := x.Int64s()
				if x.DType() == tensor.Bool {
					elements, err = nil, nil
					for _, yes := range tensor.Data[bool](x) {
						elements = append(elements, map[bool]int64{true: 1}[yes])
					}
				}
				if err != nil || len(elements) != len(i.Values) {
					t.Errorf("%s (%s): %s of %s is %s, where elements %v were inferred: %v", filepath.Base(dir), naming, v.Name, n.Op, x, i.Values, err)
					continue
				}
				for k, d := range i.Values {
					if e, ok, _ := eval(d); ok && e != elements[k] {
						t.Errorf("%s (%s): %s of %s is %v, where elements %v were inferred", filepath.Base(dir), naming, v.Name, n.Op, elements, i.Values)
					}
				}
			}
			if i.Const != nil {
				if _, _, err := tensor.Compare(x, i.Const, 0, 0); err != nil {
					t.Errorf("%s (%s): %s of %s was inferred to be %v: %v", filepath.Base(dir), naming, v.Name, n.Op, i.Const, err)
				}
			}
		}
	}
}

// other holds what is known for open sizes against what is inferred for others than the recorded ones, of which it tries a few.
func (s *symbolic) other(t *testing.T, what string, m *onnx.Model, infos map[*onnx.Value]ops.Info, sizes map[string]int) {
	open := map[*onnx.Value]*onnx.Type{}
	for _, in := range m.Graph.Inputs {
		open[in] = in.Type
	}
	defer func() {
		for in, ty := range open {
			in.Type = ty
		}
	}()
	reshapes := false // for which a size of 0 is one to copy, or, under -1, leaves any
	m.Walk(func(g *onnx.Graph) {
		reshapes = reshapes || slices.ContainsFunc(g.Nodes, func(n *onnx.Node) bool { return n.Op == "Reshape" })
	})
	for trial, change := range []func(i, n int) int{
		func(_, n int) int { return n + 1 },
		func(_, n int) int { return 2 * n },
		func(_, n int) int { return max(n-1, 1) },
		func(i, n int) int { return []int{n, 1, n + 3, 2 * n, 7}[(i+i/5)%5] },
		func(_, n int) int { return 1 },
		func(i, n int) int { return []int{0, n}[i%2] },
	} {
		tried, i := map[string]int{}, 0
		for _, name := range slices.Sorted(maps.Keys(sizes)) {
			tried[name] = change(i, sizes[name])
			i++
			if tried[name] == 0 && reshapes {
				tried[name] = 2
			}
		}
		for in, ty := range open {
			if ty == nil || ty.Shape == nil || in.Const != nil {
				continue
			}
			fixed := *ty
			fixed.Shape = slices.Clone(ty.Shape)
			for k, d := range fixed.Shape {
				if n, ok := tried[d.Param]; ok && d.Param != "" {
					fixed.Shape[k] = onnx.Dim{Value: int64(n)}
				}
			}
			in.Type = &fixed
		}
		numbers, err := runtime.Infer(m)
		if err != nil {
			continue // not every size goes
		}
		for v, i := range infos {
			j := numbers[v]
			if !i.Ranked || !j.Ranked {
				continue
			}
			if i.Rank() != j.Rank() {
				t.Errorf("%s, trial %d: %s has shape %v, where %v was inferred", what, trial, v.Name, j.Shape, i.Shape)
				continue
			}
			for k, d := range i.Shape {
				n, ok := d.Eval(func(name string) (int, bool) { n, ok := tried[name]; return n, ok })
				if !ok || !j.Shape[k].Known() {
					continue
				}
				if s.tried++; n != int64(j.Shape[k].N) {
					op := ""
					if v.Def() != nil {
						op = v.Def().Op
					}
					t.Errorf("%s, trial %d: %s of %s has shape %v, where %v was inferred", what, trial, v.Name, op, j.Shape, i.Shape)
				}
			}
		}
	}
}

func (s *symbolic) report(t *testing.T) {
	ends := slices.Collect(maps.Keys(s.ends))
	sort.Slice(ends, func(i, j int) bool {
		return s.ends[ends[i]] > s.ends[ends[j]] || s.ends[ends[i]] == s.ends[ends[j]] && ends[i] < ends[j]
	})
	for i, op := range ends {
		ends[i] = fmt.Sprintf("%s %d", op, s.ends[op])
	}
	t.Logf("%d of %d dimensions are terms, %d were tried for other sizes; the shapes of %d of %d floating-point values are known; knowledge ends at %s", s.terms, s.dims, s.tried, s.known, s.values, strings.Join(ends, ", "))
}

// floorsOfShapes are of how many floating-point values the shape was known before, for any sizes of the inputs. Raise them.
var floorsOfShapes = map[string]int{"shipped": 389, "real": 2204, "node": 6954, "simple": 15, "pytorch-converted": 102, "pytorch-operator": 50}

// Every shape and every element that inference knows for open sizes of the inputs is what the run on the recorded inputs gives.
func TestSymbolicShapes(t *testing.T) {
	sets := map[string]func() []string{
		"shipped": func() []string {
			return append(mustCases(t, "../../models"), mustCases(t, "../../models/rnn_variants")...)
		},
		"real": func() []string { return mustCases(t, testkit.Dir(t, "models")) },
	}
	for _, set := range []string{"node", "simple", "pytorch-converted", "pytorch-operator"} {
		sets[set] = func() []string { return mustCases(t, filepath.Join(testkit.Dir(t, "conformance"), set)) }
	}
	if dir := os.Getenv("RETUNE_SYMBOLIC"); dir != "" { // further cases, as scripts/exports makes them
		sets["extra"] = func() []string { return mustCases(t, dir) }
	}
	for set, dirs := range sets {
		for naming := range namings {
			t.Run(set+"/"+naming, func(t *testing.T) {
				s := symbolic{ends: map[string]int{}}
				for _, dir := range dirs() {
					s.check(t, dir, naming)
				}
				s.report(t)
				if s.known < floorsOfShapes[set] {
					t.Errorf("the shapes of %d floating-point values are known, of %d were before", s.known, floorsOfShapes[set])
				}
				if set != "extra" && s.tried < s.dims/2 {
					t.Errorf("%d dimensions were tried for other sizes", s.tried)
				}
			})
		}
	}
}

func mustCases(t *testing.T, path string) []string {
	dirs, err := Cases(path)
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}
