package ops

import (
	"errors"
	"fmt"

	"github.com/retune-go/retune/internal/imagefile"
	"github.com/retune-go/retune/tensor"
)

// ImageDecoder makes pixels, height×width×channels, of an image file.
func init() {
	register(Op{Name: "ImageDecoder", Since: []int{20}, MinIn: 1, Types: []TypeSet{Of(tensor.Uint8)}, NoGrad: "an image file is no function to differentiate",
		Infer: func(n *Node) ([]Info, error) {
			channels, err := pixelChannels(n)
			return []Info{Tensor(tensor.Uint8, Unknown, Unknown, D(channels))}, err
		},
		Compile: func(*Node) (Kernel, error) { return imageDecoder, nil }})
}

func pixelChannels(n *Node) (int, error) {
	switch f := n.Str("pixel_format", "RGB"); f {
	case "RGB", "BGR":
		return 3, nil
	case "Grayscale":
		return 1, nil
	default:
		return 0, fmt.Errorf("pixel_format %q is not known", f)
	}
}

func imageDecoder(c *Ctx) error {
	channels, err := pixelChannels(c.Node)
	if err != nil {
		return err
	}
	file, err := tensorIn(c, 0)
	if err != nil {
		return err
	}
	var taken int64
	defer func() { c.Mem.Give(taken) }()
	m, err := imagefile.Decode(file.Bytes(), func(bytes int64) error {
		err := c.Mem.Take(bytes)
		if err == nil {
			taken += bytes
		}
		return err
	})
	if damaged := (*imagefile.DamagedError)(nil); errors.As(err, &damaged) {
		m = &imagefile.Image{} // An empty image is the standard's answer to what cannot be decoded.
	} else if err != nil {
		return err
	}
	t, err := c.Alloc(0, tensor.Uint8, m.Height, m.Width, channels)
	if err != nil {
		return err
	}
	y := tensor.Data[uint8](t)
	switch c.Node.Str("pixel_format", "RGB") {
	case "RGB":
		copy(y, m.Pix)
	case "BGR":
		for i := 0; i < len(y); i += 3 {
			y[i], y[i+1], y[i+2] = m.Pix[i+2], m.Pix[i+1], m.Pix[i]
		}
	case "Grayscale": // the luma of ITU-R BT.601, with weights of 16 bits
		for i := range y {
			p := m.Pix[3*i : 3*i+3]
			y[i] = uint8((19595*uint32(p[0]) + 38470*uint32(p[1]) + 7471*uint32(p[2]) + 1<<15) >> 16)
		}
	}
	return nil
}
