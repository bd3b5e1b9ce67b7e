package ops

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Operators between maps and tensors.
func init() {
	const why = "gradients do not pass through maps"
	register(
		Op{Domain: mlDomain, Name: "ZipMap", Since: []int{1}, MinIn: 1, Types: []TypeSet{Of(tensor.Float32)},
			Infer: func(n *Node) ([]Info, error) {
				_, err := inferRows(n.In[0])
				return []Info{SequenceOf(Info{Kind: onnx.MapType})}, err
			},
			Compile: compileZipMap, NoGrad: why},
		Op{Domain: mlDomain, Name: "CastMap", Since: []int{1}, AnyKind: true, MinIn: 1,
			Infer: func(n *Node) ([]Info, error) {
				d, width := castMapType(n), Unknown
				if w := n.Int("max_map", 1); n.Str("map_form", "DENSE") == "SPARSE" && w >= 0 && w <= math.MaxInt32 {
					width = D(int(w))
				}
				return []Info{Tensor(d, D(1), width)}, nil
			},
			Compile: compileCastMap, NoGrad: why},
		Op{Domain: mlDomain, Name: "DictVectorizer", Since: []int{1}, AnyKind: true, MinIn: 1, // the output's type is that of the map's values
			Infer:   func(n *Node) ([]Info, error) { return []Info{{}}, nil },
			Compile: compileDictVectorizer, NoGrad: why},
	)
}

// mapBytes is about what a map takes beside its values.
const mapBytes = 256

// compileZipMap makes a map of each row, the columns under the labels.
func compileZipMap(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	keys := a.labels("classlabels_strings", "classlabels_int64s")
	if a.err != nil {
		return nil, a.err
	}
	var names *tensor.Tensor
	distinct := 0
	if keys.strings != nil {
		names, distinct = tensor.New(keys.strings), differing(keys.strings)
	} else {
		names, distinct = tensor.New(slices.Clone(keys.ints)), differing(keys.ints)
	}
	if distinct != keys.len() {
		return nil, fmt.Errorf("%d labels of which only %d differ cannot be a map's keys", keys.len(), distinct)
	}
	return func(c *Ctx) error {
		x := c.In(0)
		if x == nil {
			return fmt.Errorf("input 0 is not a tensor")
		}
		rows, width, err := mlRows(x)
		if err != nil {
			return err
		}
		if width != names.Len() {
			return fmt.Errorf("input 0 has %d columns for %d labels", width, names.Len())
		}
		if err := c.Mem.TakeEach(mapBytes, rows); err != nil {
			return err
		}
		values, err := c.New(tensor.Float32, rows, width)
		if err != nil {
			return err
		}
		v := tensor.Data[float32](values)
		copy(v, tensor.Data[float32](x))
		s := &tensor.Sequence{Values: make([]tensor.Value, rows)}
		for r := range s.Values {
			s.Values[r] = &tensor.Map{Keys: names, Values: tensor.New(v[r*width:(r+1)*width:(r+1)*width], width)}
		}
		c.SetOut(0, s)
		return nil
	}, nil
}

// differing is the number of different elements of v.
func differing[T comparable](v []T) int {
	seen := make(map[T]bool, len(v))
	for _, x := range v {
		seen[x] = true
	}
	return len(seen)
}

// mapInput is input 0 as keys and values of equal number.
func mapInput(c *Ctx) (keys, values *tensor.Tensor, err error) {
	m, ok := c.Value(0).(*tensor.Map)
	if !ok || m == nil || m.Keys == nil {
		return nil, nil, fmt.Errorf("input 0 is no map")
	}
	values, ok = m.Values.(*tensor.Tensor)
	if !ok || values == nil || values.Len() != m.Keys.Len() {
		return nil, nil, fmt.Errorf("the map's values are not one for each of its %d keys", m.Keys.Len())
	}
	return m.Keys, values, nil
}

func castMapType(n *Node) tensor.DType {
	switch n.Str("cast_to", "TO_FLOAT") {
	case "TO_STRING":
		return tensor.String
	case "TO_INT64":
		return tensor.Int64
	}
	return tensor.Float32
}

// compileCastMap gives a map's values in the order of its keys (DENSE), or each at its key, and nothing between (SPARSE): [1,n].
func compileCastMap(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	a.choice("cast_to", "TO_FLOAT", "TO_STRING", "TO_INT64")
	sparse, width := a.choice("map_form", "DENSE", "SPARSE") == 1, a.int("max_map", 1)
	if sparse && (width < 0 || width > math.MaxInt32) {
		a.fail("attribute max_map is %d", width)
	}
	d := castMapType(n)
	return func(c *Ctx) error {
		keys, values, err := mapInput(c)
		if err != nil {
			return err
		}
		if keys.DType() != tensor.Int64 || values.DType() != tensor.Float32 && values.DType() != tensor.String {
			return fmt.Errorf("a map from %s to %s is not allowed", keys.DType(), values.DType())
		}
		if values, err = tensor.Convert(values, d, true); err != nil {
			return err
		}
		at := tensor.Data[int64](keys)
		order := make([]int, len(at))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(at[i], at[j]) })
		cols := len(at)
		if sparse {
			cols = int(width)
		}
		y, err := c.Alloc(0, d, 1, cols)
		if err != nil {
			return err
		}
		if d == tensor.String {
			clear(tensor.Data[string](y))
		} else {
			clear(y.Bytes())
		}
		for k, i := range order {
			if sparse {
				if at[i] < 0 || at[i] >= width {
					return fmt.Errorf("key %d is outside max_map %d", at[i], width)
				}
				k = int(at[i])
			}
			switch d {
			case tensor.String:
				tensor.Data[string](y)[k] = tensor.Data[string](values)[i]
			case tensor.Int64:
				tensor.Data[int64](y)[k] = tensor.Data[int64](values)[i]
			default:
				tensor.Data[float32](y)[k] = tensor.Data[float32](values)[i]
			}
		}
		return nil
	}, a.err
}

// compileDictVectorizer gives a map's values in the order of the vocabulary, 0 or "" where it has none: [1,n]. Keys outside
// the vocabulary count for nothing, as in ONNX Runtime and scikit-learn.
func compileDictVectorizer(n *Node) (Kernel, error) {
	a := &attrs{n: n}
	vocabulary := a.labels("string_vocabulary", "int64_vocabulary")
	if a.err != nil {
		return nil, a.err
	}
	names, numbers := vocabulary.strings, vocabulary.ints
	return func(c *Ctx) error {
		keys, values, err := mapInput(c)
		if err != nil {
			return err
		}
		if keys.DType() != vocabulary.dtype() {
			return fmt.Errorf("the map's keys are of type %s, the vocabulary's of %s", keys.DType(), vocabulary.dtype())
		}
		wanted := tensor.New(numbers, len(numbers))
		if names != nil {
			wanted = tensor.New(names)
		}
		find, err := keyFinder(keys)
		if err != nil {
			return err
		}
		none, err := tensor.Zeros(values.DType(), 1)
		if err != nil {
			return err
		}
		row, err := wanted.Reshape(1, wanted.Len())
		if err != nil {
			return err
		}
		return lookUp(c, row, find, values, none)
	}, nil
}
