package runtime

import (
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
)

// Applied names the passes that change something in m, each after those before it: a session without one of the others is the session with it.
func Applied(m *onnx.Model) ([]string, error) {
	if slices.ContainsFunc(m.Graph.Inputs, hasDefault) {
		return Passes(), nil // a session has two programs
	}
	m, err := resolve(m)
	if err != nil {
		return nil, err
	}
	m = m.Clone()
	r, err := newRewriter(m, &settings{limit: DefaultMemoryLimit})
	if err != nil {
		return nil, err
	}
	text := func() string {
		var b strings.Builder
		if err := onnx.Fprint(&b, m); err != nil {
			b.WriteString(err.Error())
		}
		return b.String()
	}
	var names []string
	before := text()
	for _, ps := range passes {
		m.Graph.Walk(func(g *onnx.Graph) {
			r.graph = g
			ps.run(r)
		})
		if after := text(); after != before {
			names, before = append(names, ps.name), after
		}
	}
	return names, nil
}
