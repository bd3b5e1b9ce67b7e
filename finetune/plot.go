package finetune

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/retune-go/retune/internal/wholefile"
)

// Point is a loss after that many steps.
type Point struct {
	Step int
	Loss float64
}

func format(path string) string { return strings.ToLower(strings.TrimPrefix(filepath.Ext(path), ".")) }

// CanPlot reports whether [PlotLosses] knows the kind of picture that path's ending says.
func CanPlot(path string) bool { return slices.Contains(draw.Formats(), format(path)) }

// PlotLosses draws the curves "train" and "valid" to a PNG (or, by path's ending, SVG or PDF) file, which is written whole.
func PlotLosses(path, title string, curves map[string][]Point) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "step", "loss"
	var args []any
	for _, name := range []string{"train", "valid"} {
		pts := make(plotter.XYs, len(curves[name]))
		for i, v := range curves[name] {
			pts[i].X, pts[i].Y = float64(v.Step), v.Loss
		}
		if len(pts) > 0 {
			args = append(args, name, pts)
		}
	}
	if err := plotutil.AddLines(p, args...); err != nil {
		return err
	}
	drawing, err := p.WriterTo(18*vg.Centimeter, 11*vg.Centimeter, format(path))
	if err != nil {
		return fmt.Errorf("plot %s: %w", path, err)
	}
	return wholefile.Write(path, func(w io.Writer) error {
		_, err := drawing.WriteTo(w)
		return err
	})
}
