package ops

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// Ctx is what a kernel works on: its inputs, its outputs, the workers and the memory.
// It belongs to one run of one node.
type Ctx struct {
	Context context.Context
	Pool    *kernel.Pool
	Node    *Node
	Mem     *Meter

	// Static tells that this Ctx is used for one step of a plan, again and again: its inputs have the same shapes each time, and those
	// whose values are in Node.In the same values.
	Static bool
	kept   any // by [Keep]
	spare  any // by [Scratch]

	Ins  []tensor.Value // nil where an input is left out
	Outs []tensor.Value // allocated where the shape was known before; else nil until Alloc or SetOut
}

// In is the i-th input tensor, nil if it is left out or no tensor.
func (c *Ctx) In(i int) *tensor.Tensor {
	if i >= len(c.Ins) {
		return nil
	}
	t, _ := c.Ins[i].(*tensor.Tensor)
	return t
}

// Value is the i-th input of any kind.
func (c *Ctx) Value(i int) tensor.Value {
	if i >= len(c.Ins) {
		return nil
	}
	return c.Ins[i]
}

// alike sees to it that the inputs listed, as far as they are there, are tensors of the first one's element type.
func (c *Ctx) alike(inputs ...int) error {
	for _, i := range inputs {
		if t := c.In(i); c.Value(i) != nil && (t == nil || t.DType() != c.In(0).DType()) {
			return fmt.Errorf("input %d is no tensor of %s, as input 0 is", i, c.In(0).DType())
		}
	}
	return nil
}

// Out is the i-th output, already of its inferred type and shape, its elements undefined;
// nil if the graph does not use that output or its shape was not inferred.
func (c *Ctx) Out(i int) *tensor.Tensor {
	if i >= len(c.Outs) {
		return nil
	}
	t, _ := c.Outs[i].(*tensor.Tensor)
	return t
}

// Wants reports whether the graph uses the i-th output.
func (c *Ctx) Wants(i int) bool { return c.Node.Output(i) != nil }

// Alloc makes the i-th output of this type and shape, zeroed, unless it is there already.
// For outputs whose shape hangs on data.
func (c *Ctx) Alloc(i int, d tensor.DType, shape ...int) (*tensor.Tensor, error) {
	if t := c.Out(i); t != nil && t.DType() == d && slices.Equal(t.Shape(), shape) {
		return t, nil
	}
	t, err := c.New(d, shape...)
	if err != nil {
		return nil, err
	}
	c.SetOut(i, t)
	return t, nil
}

// SetOut makes v the i-th output; it may share an input's memory.
func (c *Ctx) SetOut(i int, v tensor.Value) {
	for len(c.Outs) <= i {
		c.Outs = append(c.Outs, nil)
	}
	c.Outs[i] = v
}

// TensorHead is the bytes of a tensor beside its elements, which count where there are many small ones.
const TensorHead = 192

// New allocates a tensor of zeros within the run's memory limit.
func (c *Ctx) New(d tensor.DType, shape ...int) (*tensor.Tensor, error) {
	size, err := tensor.ByteSize(d, shape)
	if err != nil {
		return nil, err
	}
	if err := c.Mem.Take(int64(size) + TensorHead); err != nil {
		return nil, err
	}
	return tensor.Zeros(d, shape...)
}

// Keep is what make gives, which is asked again only where it could give something else: it may look at the node, at the shapes of
// inputs and at the values of those listed in on.
func Keep[T any](c *Ctx, make func() (*T, error), on ...int) (*T, error) {
	if c.kept != nil {
		return c.kept.(*T), nil
	}
	v, err := make()
	if err != nil || !c.Static {
		return v, err
	}
	for _, i := range on {
		if c.Node.Has(i) && c.Node.In[i].Const == nil {
			return v, nil
		}
	}
	c.kept = v
	return v, nil
}

// Scratch is a T for the kernel's own use, in the state that its last run with this Ctx left it in; all of a kernel's calls are for one T.
func Scratch[T any](c *Ctx) *T {
	v, ok := c.spare.(*T)
	if !ok {
		v = new(T)
		c.spare = v
	}
	return v
}

var room32, room64 sync.Pool

// takeRoom is n elements of any value for one worker's use, and where it puts them back.
func takeRoom[T kernel.Float](n int) (*[]T, *sync.Pool) {
	pool := &room64
	if tensor.TypeOf[T]() == tensor.Float32 {
		pool = &room32
	}
	room, _ := pool.Get().(*[]T)
	if room == nil || cap(*room) < n {
		room = new([]T)
		*room = make([]T, n)
	}
	*room = (*room)[:n]
	return room, pool
}

// takeMetered is [takeRoom] within the run's memory limit.
func takeMetered[T kernel.Float](c *Ctx, n int) (*[]T, *sync.Pool, error) {
	if err := c.Mem.Take(int64(n) * int64(tensor.TypeOf[T]().Bits()/8)); err != nil {
		return nil, nil, err
	}
	room, pool := takeRoom[T](n)
	return room, pool, nil
}

// Body is the node's subgraph under that attribute.
func (c *Ctx) Body(name string) Body { return c.Node.Bodies[name] }

// Meter counts the bytes that one run holds against a limit. A nil Meter has none.
type Meter struct {
	Limit int64
	used  atomic.Int64
}

// ErrMemory is what a run that would pass its memory limit fails with.
type ErrMemory struct{ Need, Limit int64 }

func (e *ErrMemory) Error() string {
	return fmt.Sprintf("needs %d bytes, over the run's memory limit of %d", e.Need, e.Limit)
}

// Take counts n more bytes, or fails with [*ErrMemory].
func (m *Meter) Take(n int64) error {
	if m == nil {
		return nil
	}
	if m.Limit > 0 && n > m.Limit { // which might carry the sum over the greatest number
		return &ErrMemory{Need: n, Limit: m.Limit}
	}
	if now := m.used.Add(n); m.Limit > 0 && now > m.Limit {
		m.used.Add(-n)
		return &ErrMemory{Need: now, Limit: m.Limit}
	}
	return nil
}

// TakeEach counts that many bytes n times. Their product may be greater than any number where n is a size of a tensor that is empty by another.
func (m *Meter) TakeEach(bytes, n int) error {
	if m != nil && bytes > 0 && n > math.MaxInt/bytes {
		return &ErrMemory{Need: math.MaxInt64, Limit: m.Limit}
	}
	return m.Take(int64(bytes) * int64(n))
}

// Give counts n bytes back.
func (m *Meter) Give(n int64) {
	if m != nil {
		m.used.Add(-n)
	}
}

// Used is the bytes counted now.
func (m *Meter) Used() int64 {
	if m == nil {
		return 0
	}
	return m.used.Load()
}

// Table is the one place where element types become kernels: the instantiation of a
// generic kernel for each type.
type Table map[tensor.DType]Kernel

// By dispatches on the element type of input key. float16 and bfloat16, where the table has no
// kernel of their own, run the float32 one between conversions.
func (t Table) By(key int) Kernel {
	var ks [32]Kernel
	for d, k := range t {
		ks[d] = k
	}
	if f := ks[tensor.Float32]; f != nil {
		for _, half := range []tensor.DType{tensor.Float16, tensor.BFloat16} {
			if ks[half] == nil {
				ks[half] = viaFloat32(f, half)
			}
		}
	}
	return func(c *Ctx) error {
		in := c.In(key)
		if in == nil {
			return fmt.Errorf("input %d is not a tensor", key)
		}
		if k := ks[in.DType()]; k != nil {
			return k(c)
		}
		return fmt.Errorf("no kernel for element type %s", in.DType())
	}
}

// Always is a Compile that reads no attributes and dispatches on input key.
func (t Table) Always(key int) func(*Node) (Kernel, error) {
	k := t.By(key)
	return func(*Node) (Kernel, error) { return k, nil }
}

// viaFloat32 runs k on float32 copies of the inputs of type half and rounds the outputs back.
func viaFloat32(k Kernel, half tensor.DType) Kernel {
	return func(c *Ctx) error {
		w := *c
		w.Ins = make([]tensor.Value, len(c.Ins))
		for i, v := range c.Ins {
			w.Ins[i] = v
			if t, ok := v.(*tensor.Tensor); ok && t.DType() == half {
				f, err := c.New(tensor.Float32, t.Shape()...)
				if err != nil {
					return err
				}
				c.widen(f, t)
				w.Ins[i] = f
			}
		}
		w.Outs = make([]tensor.Value, len(c.Outs))
		for i, v := range c.Outs {
			w.Outs[i] = v
			if t, ok := v.(*tensor.Tensor); ok && t.DType() == half {
				f, err := c.New(tensor.Float32, t.Shape()...)
				if err != nil {
					return err
				}
				w.Outs[i] = f
			}
		}
		err := k(&w)
		c.kept = w.kept
		if err != nil {
			return err
		}
		for i, v := range w.Outs {
			f, ok := v.(*tensor.Tensor)
			want := c.Out(i)
			if !ok || f.DType() != tensor.Float32 || want != nil && want.DType() != half {
				c.SetOut(i, v)
				continue
			}
			if want == nil {
				var err error
				if want, err = c.Alloc(i, half, f.Shape()...); err != nil {
					return err
				}
			}
			c.narrow(want, f)
		}
		return nil
	}
}

// halfGrain is how many elements of a conversion one thread takes at a time.
const halfGrain = 1 << 15

// widen converts float16s or bfloat16s to the float32s that they are.
func (c *Ctx) widen(dst, src *tensor.Tensor) {
	to, from, f := tensor.Data[float32](dst), halfBits(src), kernel.Float16ToFloat32
	if src.DType() == tensor.BFloat16 {
		f = kernel.BFloat16ToFloat32
	}
	c.Pool.For(len(to), halfGrain, func(lo, hi int) { f(to[lo:hi], from[lo:hi]) })
}

// narrow rounds float32s to float16s or bfloat16s.
func (c *Ctx) narrow(dst, src *tensor.Tensor) {
	to, from, f := halfBits(dst), tensor.Data[float32](src), kernel.Float32ToFloat16
	if dst.DType() == tensor.BFloat16 {
		f = kernel.Float32ToBFloat16
	}
	c.Pool.For(len(to), halfGrain, func(lo, hi int) { f(to[lo:hi], from[lo:hi]) })
}

// halfBits is the elements of a float16 or bfloat16 tensor as their bits.
func halfBits(t *tensor.Tensor) []uint16 {
	b := t.Bytes()
	return unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/2)
}

// viaFloat64 runs k, a float64 kernel, on a copy of input 0, which holds integers, and converts output 0 back.
func viaFloat64(k Kernel) Kernel {
	return func(c *Ctx) error {
		x := c.In(0)
		f, err := c.New(tensor.Float64, x.Shape()...)
		if err != nil {
			return err
		}
		if err := tensor.ConvertInto(f, x, true); err != nil {
			return err
		}
		w := *c
		w.Ins = append([]tensor.Value{f}, c.Ins[1:]...)
		w.Outs = nil
		if err := k(&w); err != nil {
			return err
		}
		y, err := c.Alloc(0, x.DType(), w.Out(0).Shape()...)
		if err != nil {
			return err
		}
		return tensor.ConvertInto(y, w.Out(0), true)
	}
}
