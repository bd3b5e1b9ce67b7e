package ops

import (
	"fmt"
	"slices"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// Col2Im over any number of spatial axes, and its transpose, which is its gradient.
func init() {
	register(
		Op{Name: "Col2Im", Since: []int{18}, MinIn: 3, Types: []TypeSet{Numeric | Of(tensor.Complex64, tensor.Complex128), Of(tensor.Int64)}, Infer: inferCol2Im,
			Compile: Table{
				tensor.Float32: col2Im[float32], tensor.Float64: col2Im[float64],
				tensor.Int8: col2Im[int8], tensor.Int16: col2Im[int16], tensor.Int32: col2Im[int32], tensor.Int64: col2Im[int64],
				tensor.Uint8: col2Im[uint8], tensor.Uint16: col2Im[uint16], tensor.Uint32: col2Im[uint32], tensor.Uint64: col2Im[uint64],
				tensor.Complex64: col2Im[complex64], tensor.Complex128: col2Im[complex128],
			}.Always(0),
			Grad: func(g *Grad, n *Node, dy []*onnx.Value) ([]*onnx.Value, error) {
				x := n.Inputs[0]
				return []*onnx.Value{g.Internal("Col2ImGrad", 1, []*onnx.Value{dy[0], n.Inputs[1], n.Inputs[2], g.Shape(x)}, n.Attrs...)[0], nil, nil}, nil
			}},
		// dY, image_shape, block_shape, shape of X
		Op{Domain: Internal, Name: "Col2ImGrad", Since: []int{1}, MinIn: 4, Types: []TypeSet{Floats, Index}, Infer: inferShapeInput(3),
			Compile: Table{tensor.Float32: col2ImGrad[float32], tensor.Float64: col2ImGrad[float64]}.Always(0), Portable: portableCol2ImGrad},
	)
}

// folding is the geometry of blocks that cover an image.
type folding struct {
	image, block, blocks, stride, dil, begin []int
	pixels, rows, cols                       int // products of image, block and blocks
}

func foldOf(n *Node, image, block []int) (*folding, error) {
	rank := len(image)
	if rank < 1 || len(block) != rank {
		return nil, fmt.Errorf("an image of %v does not suit blocks of %v", image, block)
	}
	f := &folding{image: image, block: block, blocks: make([]int, rank)}
	var err error
	if f.stride, err = windowInts(n, "strides", rank, 1, 1); err != nil {
		return nil, err
	}
	if f.dil, err = windowInts(n, "dilations", rank, 1, 1); err != nil {
		return nil, err
	}
	pads, err := windowInts(n, "pads", 2*rank, 0, 0)
	if err != nil {
		return nil, err
	}
	f.begin = pads[:rank]
	for i, d := range image {
		if d > maxWindow || block[i] < 1 || block[i] > maxWindow {
			return nil, fmt.Errorf("an image of %v in blocks of %v is out of range", image, block)
		}
		room := d + pads[i] + pads[rank+i] - (block[i]-1)*f.dil[i] - 1
		if room < 0 {
			return nil, fmt.Errorf("a block of %v does not fit into an image of %v", block, image)
		}
		f.blocks[i] = room/f.stride[i] + 1
	}
	for _, p := range []struct {
		of   []int
		size *int
	}{{image, &f.pixels}, {block, &f.rows}, {f.blocks, &f.cols}} {
		if *p.size, err = tensor.NumElements(p.of); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// columns checks xs, N×(C·rows)×cols, and gives N·C and the shape of the image.
func (f *folding) columns(xs []int) (planes int, shape []int, err error) {
	if len(xs) != 3 || xs[1]%f.rows != 0 || xs[2] != f.cols {
		return 0, nil, fmt.Errorf("columns of %v where blocks of %v over an image of %v want [N, C·%d, %d]", xs, f.block, f.image, f.rows, f.cols)
	}
	shape = append([]int{xs[0], xs[1] / f.rows}, f.image...)
	_, err = tensor.ByteSize(tensor.Complex128, shape)
	return xs[0] * shape[1], shape, err
}

// runs calls visit for each run of n columns from col on that come from pixels at, at+step, … of a plane.
func (f *folding) runs(visit func(col, at, n, step int)) {
	last := len(f.image) - 1
	strides, step := rowMajor(f.image), f.stride[last]
	tap, pos := make([]int, last+1), make([]int, last)
	for k := range f.rows {
		unravel(tap, k, f.block)
		left := tap[last]*f.dil[last] - f.begin[last]
		lo := max(0, (-left+step-1)/step)
		hi := min(f.blocks[last], (f.image[last]-left+step-1)/step)
		if lo >= hi {
			continue
		}
	outer:
		for o := range f.cols / f.blocks[last] {
			unravel(pos, o, f.blocks[:last])
			at := lo*step + left
			for a, p := range pos {
				v := p*f.stride[a] + tap[a]*f.dil[a] - f.begin[a]
				if v < 0 || v >= f.image[a] {
					continue outer
				}
				at += v * strides[a]
			}
			visit(k*f.cols+o*f.blocks[last]+lo, at, hi-lo, step)
		}
	}
}

// unravel writes the indices of element i of that shape.
func unravel(index []int, i int, shape []int) {
	for a := len(shape) - 1; a >= 0; a-- {
		index[a] = i % shape[a]
		i /= shape[a]
	}
}

func inferCol2Im(n *Node) ([]Info, error) {
	x := n.In[0]
	if x.Ranked && len(x.Shape) != 3 {
		return nil, fmt.Errorf("columns of rank %d, not 3", len(x.Shape))
	}
	image, knownImage, err := n.list(1)
	if err != nil {
		return nil, err
	}
	block, knownBlock, err := n.list(2)
	if err != nil {
		return nil, err
	}
	if !knownImage {
		if knownBlock {
			return []Info{Tensor(x.DType, unknownDims(len(block)+2)...)}, nil
		}
		return []Info{Unranked(x.DType)}, nil
	}
	dims, err := dimsOf(image)
	if err != nil {
		return nil, err
	}
	out := Tensor(x.DType, append([]Dim{Unknown, Unknown}, dims...)...)
	if !x.Ranked {
		return []Info{out}, nil
	}
	out.Shape[0] = x.Shape[0]
	if knownBlock {
		out.Shape[1] = x.Shape[1].FloorDiv(dimsProduct(block))
	}
	imageOf, knownImage, err := constInts(n, 1)
	if err != nil {
		return nil, err
	}
	blockOf, knownBlock, err := constInts(n, 2)
	if err != nil {
		return nil, err
	}
	if knownImage && knownBlock {
		f, err := foldOf(n, toInts(imageOf), toInts(blockOf))
		if err != nil {
			return nil, err
		}
		if xs, ok := x.Static(); ok {
			if _, _, err := f.columns(xs); err != nil {
				return nil, err
			}
		}
	}
	return []Info{out}, nil
}

// foldInputs is the geometry that inputs 1 and 2 give.
func foldInputs(c *Ctx) (*folding, error) {
	image, err := shapeOperand(c, 1)
	if err != nil {
		return nil, err
	}
	block, err := shapeOperand(c, 2)
	if err != nil {
		return nil, err
	}
	return foldOf(c.Node, image, block)
}

func col2Im[T arith | complex64 | complex128](c *Ctx) error {
	f, err := foldInputs(c)
	if err != nil {
		return err
	}
	x := c.In(0)
	planes, shape, err := f.columns(x.Shape())
	if err != nil {
		return err
	}
	out, err := c.Alloc(0, x.DType(), shape...)
	if err != nil {
		return err
	}
	src, dst := tensor.Data[T](x), tensor.Data[T](out)
	clear(dst)
	f.parallel(c.Pool, planes, func(plane int) {
		cols, pixels := src[plane*f.rows*f.cols:(plane+1)*f.rows*f.cols], dst[plane*f.pixels:(plane+1)*f.pixels]
		f.runs(func(col, at, n, step int) {
			for _, v := range cols[col : col+n] {
				pixels[at] += v
				at += step
			}
		})
	})
	return nil
}

func (f *folding) parallel(p *kernel.Pool, planes int, each func(plane int)) {
	p.For(planes, 1+4096/max(1, f.rows*f.cols), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			each(i)
		}
	})
}

func col2ImGrad[T kernel.Float](c *Ctx) error {
	f, err := foldInputs(c)
	if err != nil {
		return err
	}
	xs, err := shapeOperand(c, 3)
	if err != nil {
		return err
	}
	planes, shape, err := f.columns(xs)
	if err != nil {
		return err
	}
	dy := c.In(0)
	if !slices.Equal(dy.Shape(), shape) {
		return fmt.Errorf("a gradient of %v where %v is wanted", dy.Shape(), shape)
	}
	out, err := c.Alloc(0, dy.DType(), xs...)
	if err != nil {
		return err
	}
	src, dst := tensor.Data[T](dy), tensor.Data[T](out)
	clear(dst)
	f.parallel(c.Pool, planes, func(plane int) {
		cols, pixels := dst[plane*f.rows*f.cols:(plane+1)*f.rows*f.cols], src[plane*f.pixels:(plane+1)*f.pixels]
		f.runs(func(col, at, n, step int) {
			for i := range n {
				cols[col+i] = pixels[at]
				at += step
			}
		})
	})
	return nil
}

// portableCol2ImGrad picks each block's pixels of dY, padded, axis by axis.
func portableCol2ImGrad(g *Grad, n *Node) ([]*onnx.Value, error) {
	image, block := n.Inputs[1], n.Inputs[2]
	rank := g.Rank(n.Inputs[0]) - 2
	if rank < 1 {
		return nil, fmt.Errorf("a gradient of %v is none of an image", g.Info(n.Inputs[0]).Shape)
	}
	stride, err := windowInts(n, "strides", rank, 1, 1)
	if err != nil {
		return nil, err
	}
	dil, err := windowInts(n, "dilations", rank, 1, 1)
	if err != nil {
		return nil, err
	}
	pads, err := windowInts(n, "pads", 2*rank, 0, 0)
	if err != nil {
		return nil, err
	}
	w := &window{stride: stride, dil: dil}
	image, block = g.Cast(image, tensor.Int64), g.Cast(block, tensor.Int64)
	begin, end, one := g.list(pads[:rank]), g.list(pads[rank:]), g.Int64s(1)
	room := g.Op("Sub", g.Op("Add", image, g.Op("Add", begin, end)), g.reachOf(w, block))
	blocks := g.Op("Add", g.Op("Div", room, g.list(stride)), one)
	x := g.pad(n.Inputs[0], begin, end, 0)
	perm := []int64{0, 1}
	for i := range rank {
		steps := func(count *onnx.Value, by int) *onnx.Value {
			scalar := func(v int64) *onnx.Value { return g.Const(tensor.Scalar(v)) }
			return g.Op("Mul", g.Op("Range", scalar(0), g.Op("Gather", count, scalar(int64(i))), scalar(1)), scalar(int64(by)))
		}
		at := g.Op("Add", g.Op("Unsqueeze", steps(block, dil[i]), one), steps(blocks, stride[i]))
		x = g.With("Gather", []*onnx.Attribute{IntAttr("axis", int64(2+2*i))}, x, at)
		perm = append(perm, int64(2+2*i))
	}
	for i := range rank {
		perm = append(perm, int64(3+2*i))
	}
	return []*onnx.Value{g.Reshape(g.Transpose(x, perm...), n.Inputs[3])}, nil
}
