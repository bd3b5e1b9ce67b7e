package ptfile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nlpodyssey/gopickle/types"

	"github.com/retune-go/retune/tensor"
)

// storageType is a class of storage, by the type of its elements.
type storageType tensor.DType

// elementType is a torch.dtype.
type elementType tensor.DType

// function is a function of PyTorch's that makes a tensor.
type function func(args []any) (any, error)

// Call implements the unpickler's types.Callable.
func (f function) Call(args ...any) (any, error) { return f(args) }

// class stands for any class or function that is not about tensors.
type class struct{ name string }

// Call and PyNew make an inert object.
func (c *class) Call(args ...any) (any, error) { return &object{class: c, args: args}, nil }

// PyNew is Call.
func (c *class) PyNew(args ...any) (any, error) { return c.Call(args...) }

// object is what became of a call of a class: nothing but a record of what was given to it.
type object struct {
	class *class
	args  []any
	state any
	items types.Dict
	list  types.List
}

// PySetState keeps an object's attributes.
func (o *object) PySetState(state any) error {
	o.state = state
	return nil
}

// Set keeps an item of an object that is a dict.
func (o *object) Set(key, value any) { o.items.Set(key, value) }

// Append keeps an item of an object that is a list.
func (o *object) Append(v any) { o.list.Append(v) }

// Add keeps an item of an object that is a set.
func (o *object) Add(v any) { o.list.Append(v) }

// Call makes another inert object of an object that is a function.
func (o *object) Call(args ...any) (any, error) { return &object{class: o.class, args: args}, nil }

var torchTypes = map[string]tensor.DType{
	"float32": tensor.Float32, "float64": tensor.Float64, "float16": tensor.Float16, "bfloat16": tensor.BFloat16,
	"uint8": tensor.Uint8, "int8": tensor.Int8, "uint16": tensor.Uint16, "int16": tensor.Int16,
	"uint32": tensor.Uint32, "int32": tensor.Int32, "uint64": tensor.Uint64, "int64": tensor.Int64,
	"bool": tensor.Bool, "complex64": tensor.Complex64, "complex128": tensor.Complex128,
	"float8_e4m3fn": tensor.Float8E4M3FN, "float8_e4m3fnuz": tensor.Float8E4M3FNUZ,
	"float8_e5m2": tensor.Float8E5M2, "float8_e5m2fnuz": tensor.Float8E5M2FNUZ, "float8_e8m0fnu": tensor.Float8E8M0,
}

var classes = map[string]any{
	"torch.FloatStorage":                           storageType(tensor.Float32),
	"torch.DoubleStorage":                          storageType(tensor.Float64),
	"torch.HalfStorage":                            storageType(tensor.Float16),
	"torch.BFloat16Storage":                        storageType(tensor.BFloat16),
	"torch.ByteStorage":                            storageType(tensor.Uint8),
	"torch.CharStorage":                            storageType(tensor.Int8),
	"torch.ShortStorage":                           storageType(tensor.Int16),
	"torch.IntStorage":                             storageType(tensor.Int32),
	"torch.LongStorage":                            storageType(tensor.Int64),
	"torch.BoolStorage":                            storageType(tensor.Bool),
	"torch.ComplexFloatStorage":                    storageType(tensor.Complex64),
	"torch.ComplexDoubleStorage":                   storageType(tensor.Complex128),
	"torch.UntypedStorage":                         storageType(tensor.Undefined),
	"torch.storage.UntypedStorage":                 storageType(tensor.Undefined),
	"torch.storage._UntypedStorage":                storageType(tensor.Undefined),
	"torch._utils._rebuild_tensor":                 function(rebuildTensor),
	"torch._utils._rebuild_tensor_v2":              function(rebuildTensor),
	"torch._utils._rebuild_tensor_v3":              function(rebuildTensorV3),
	"torch._utils._rebuild_parameter":              function(firstTensor),
	"torch._utils._rebuild_parameter_with_state":   function(firstTensor),
	"torch._tensor._rebuild_from_type_v2":          function(rebuildFromType),
	"torch._tensor._rebuild_from_type":             function(rebuildFromType),
	"torch.jit._pickle.build_tensor_from_id":       refused("tensors by number"),
	"torch.storage._load_from_bytes":               refused("files within files"),
	"torch._utils._rebuild_device_tensor_from_cpu": refused("tensors of other devices"),
}

func refused(what string) function {
	return func([]any) (any, error) { return nil, fmt.Errorf("%s are not supported", what) }
}

func findClass(module, name string) (any, error) {
	full := module + "." + name
	if c, ok := classes[full]; ok {
		return c, nil
	}
	if module == "torch" {
		if d, ok := torchTypes[name]; ok {
			return elementType(d), nil
		}
	}
	// Sparse, quantized and whatever tensors come next are an error, not missing from the result.
	if strings.HasPrefix(full, "torch._utils._rebuild_") {
		return refused(fmt.Sprintf("tensors made by %s", full)), nil
	}
	return &class{full}, nil
}

func rebuildTensor(args []any) (any, error) {
	if len(args) < 4 {
		return nil, errors.New("a tensor is described in no known way")
	}
	s, ok := args[0].(*storage)
	if !ok || s.dtype == tensor.Undefined {
		return nil, errors.New("a tensor has no typed storage")
	}
	return newView(s, s.dtype, args[1], args[2], args[3])
}

// rebuildTensorV3 is for types that have no class of storage: (storage, offset, size, stride, requires_grad,
// hooks, dtype, metadata).
func rebuildTensorV3(args []any) (any, error) {
	if len(args) < 7 {
		return nil, errors.New("a tensor is described in no known way")
	}
	s, ok1 := args[0].(*storage)
	d, ok2 := args[6].(elementType)
	if !ok1 || !ok2 {
		return nil, errors.New("a tensor is of a type that is not supported")
	}
	return newView(s, tensor.DType(d), args[1], args[2], args[3])
}

func newView(s *storage, d tensor.DType, offset, size, stride any) (any, error) {
	v := &view{storage: s, dtype: d}
	var ok, ok1, ok2 bool
	v.offset, ok = offset.(int)
	v.size, ok1 = ints(size)
	v.stride, ok2 = ints(stride)
	if !ok || !ok1 || !ok2 || len(v.size) != len(v.stride) {
		return nil, errors.New("a tensor is described in no known way")
	}
	return v, nil
}

// ints is a tuple of integers, or torch.Size of one.
func ints(v any) ([]int, bool) {
	if o, ok := v.(*object); ok && len(o.args) == 1 {
		v = o.args[0]
	}
	t, ok := v.(*types.Tuple)
	if !ok {
		return nil, false
	}
	out := make([]int, t.Len())
	for i := range out {
		if out[i], ok = t.Get(i).(int); !ok {
			return nil, false
		}
	}
	return out, true
}

func firstTensor(args []any) (any, error) {
	if len(args) > 0 {
		if v, ok := args[0].(*view); ok {
			return v, nil
		}
	}
	return nil, errors.New("a parameter has no tensor")
}

// rebuildFromType is for subclasses of Tensor: (function, type, its arguments, state).
func rebuildFromType(args []any) (any, error) {
	if len(args) >= 3 {
		f, ok1 := args[0].(function)
		a, ok2 := args[2].(*types.Tuple)
		if ok1 && ok2 {
			return f(*a)
		}
	}
	return nil, errors.New("a tensor is described in no known way")
}

// walker names the tensors in what a pickle made.
type walker struct {
	reader *reader
	file   *File
	seen   int
}

// Bounds on the walk: a pickle may hold one value many times over, or itself.
const (
	maxDepth  = 100
	maxValues = 1 << 20
)

func (w *walker) walk(name string, v any, depth int) error {
	if w.seen++; w.seen > maxValues || depth > maxDepth {
		return errors.New("the values are nested too deep or too many")
	}
	switch v := v.(type) {
	case *view:
		return w.add(name, v)
	case *types.Dict:
		for _, e := range *v {
			if err := w.entry(name, e.Key, e.Value, depth); err != nil {
				return err
			}
		}
	case *types.OrderedDict:
		for e := v.List.Front(); e != nil; e = e.Next() {
			e := e.Value.(*types.OrderedDictEntry)
			if err := w.entry(name, e.Key, e.Value, depth); err != nil {
				return err
			}
		}
	case *types.List:
		return w.sequence(name, *v, depth)
	case *types.Tuple:
		return w.sequence(name, *v, depth)
	case *object:
		return w.object(name, v, depth)
	}
	return nil
}

func (w *walker) entry(name string, key, v any, depth int) error {
	switch k := key.(type) {
	case string:
		return w.walk(join(name, k), v, depth+1)
	case int:
		return w.walk(join(name, strconv.Itoa(k)), v, depth+1)
	}
	return nil
}

func (w *walker) sequence(name string, vs []any, depth int) error {
	for i, v := range vs {
		if err := w.walk(join(name, strconv.Itoa(i)), v, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// object names what Module.state_dict would, if the object is a module; of any other, all it holds.
func (w *walker) object(name string, o *object, depth int) error {
	state, ok := o.state.(*types.Dict)
	if !ok {
		if err := w.walk(name, o.state, depth+1); err != nil {
			return err
		}
	} else if params, ok := state.Get("_parameters"); ok {
		if err := w.walk(name, params, depth+1); err != nil {
			return err
		}
		buffers, _ := state.Get("_buffers")
		hidden, _ := state.Get("_non_persistent_buffers_set")
		if err := w.walk(name, without(buffers, hidden), depth+1); err != nil {
			return err
		}
		modules, _ := state.Get("_modules")
		return w.walk(name, modules, depth+1)
	} else if err := w.walk(name, state, depth+1); err != nil {
		return err
	}
	if err := w.walk(name, &o.items, depth+1); err != nil {
		return err
	}
	return w.walk(name, &o.list, depth+1)
}

// without leaves out of a dict the keys that are in a set.
func without(dict, set any) any {
	s, ok := set.(*types.Set)
	if !ok || s.Len() == 0 {
		return dict
	}
	out := types.NewDict()
	add := func(k, v any) {
		if name, ok := k.(string); ok && !s.Has(name) {
			out.Set(k, v)
		}
	}
	switch d := dict.(type) {
	case *types.Dict:
		for _, e := range *d {
			add(e.Key, e.Value)
		}
	case *types.OrderedDict:
		for e := d.List.Front(); e != nil; e = e.Next() {
			e := e.Value.(*types.OrderedDictEntry)
			add(e.Key, e.Value)
		}
	}
	return out
}

func join(name, key string) string {
	if name == "" {
		return key
	}
	return name + "." + key
}

func (w *walker) add(name string, v *view) error {
	if name == "" {
		name = "tensor"
	}
	if w.file.Tensors[name] != nil {
		return fmt.Errorf("two tensors are named %q", name)
	}
	t, err := w.reader.tensor(v)
	if err != nil {
		return fmt.Errorf("tensor %q: %w", name, err)
	}
	w.file.Names = append(w.file.Names, name)
	w.file.Tensors[name] = t
	return nil
}
