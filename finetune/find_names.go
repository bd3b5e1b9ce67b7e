package finetune

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/retune-go/retune/onnx"
	"github.com/retune-go/retune/tensor"
)

// FindNames finds by their values where m, an export of a PyTorch module, holds the tensors of that module's state_dict: as they are, transposed, as gates of recurrent
// layers, joined from three, or merged into one since they were equal. buffers is globs of names that are not trained, beside batch norms' statistics.
// What the file no longer holds, as what went into another weight, has no initializer. doubts says where values alone do not tell: of tensors
// all of whose elements are equal, which are told apart by the names of nodes and weights, or else by their order.
func FindNames(m *onnx.Model, dict map[string]*tensor.Tensor, buffers []string) (n Names, doubts []string, err error) {
	for _, glob := range buffers {
		if _, err := path.Match(glob, ""); err != nil {
			return nil, nil, fmt.Errorf("buffers %q: %w", glob, err)
		}
	}
	f := &finder{model: m, dict: dict, found: Names{}, held: map[content][]place{}, merged: map[string]string{}}
	m.Graph.Walk(f.graph)
	alike := map[content][]string{}
	var order []content
	for _, name := range slices.SortedFunc(maps.Keys(dict), func(a, b string) int { return strings.Compare(inOrder(a), inOrder(b)) }) {
		c := contentOf(pressed(dict[name]))
		if alike[c] == nil {
			order = append(order, c)
		}
		alike[c] = append(alike[c], name)
	}
	for _, c := range order {
		f.locate(alike[c], c)
	}
	for name, o := range f.found {
		o.Shape = append([]int{}, dict[name].Shape()...)
		o.Buffer = slices.ContainsFunc(append([]string{"running_mean", "running_var", "num_batches_tracked"}, buffers...), func(glob string) bool {
			whole, _ := path.Match(glob, name)
			return whole || glob == name[strings.LastIndexByte(name, '.')+1:]
		})
		f.found[name] = o
	}
	slices.Sort(f.doubts)
	return f.found, f.doubts, nil
}

var (
	recurrent = regexp.MustCompile(`^(.*)_([ih]h)_(l.*)$`)
	number    = regexp.MustCompile(`\d+`)
)

// inOrder sorts as modules have their parameters: by number where names differ in one, and of recurrent layers those of the input before those of
// the state, in each layer and direction.
func inOrder(name string) string {
	if m := recurrent.FindStringSubmatch(name); m != nil {
		name = fmt.Sprint(m[1], "_", m[3], "_", map[string]int{"ih": 0, "hh": 1}[m[2]])
	}
	return number.ReplaceAllStringFunc(name, func(n string) string { return fmt.Sprintf("%010s", n) })
}

// content is equal for tensors of one type and shape that hold the same bits.
type content [sha256.Size]byte

func contentOf(t *tensor.Tensor) content {
	h := sha256.New()
	fmt.Fprintln(h, t.DType(), t.Shape())
	h.Write(t.Bytes())
	return content(h.Sum(nil))
}

// A place is where the file holds a tensor.
type place struct {
	Origin
	scopes []string // the modules, as far as names of nodes say, that read it
}

type finder struct {
	model  *onnx.Model
	dict   map[string]*tensor.Tensor
	held   map[content][]place // in the file's order; Shape is not set
	merged map[string]string   // what is an Identity of an initializer, and of which
	found  Names
	doubts []string
}

// graph notes what g holds.
func (f *finder) graph(g *onnx.Graph) {
	for _, v := range g.Inits {
		f.hold(v, v.Const)
	}
	for _, n := range g.Nodes {
		if a := n.Attr("value"); n.Op == "Constant" && onnx.CanonicalDomain(n.Domain) == "" && a != nil && a.T != nil && n.Output(0) != nil {
			f.hold(n.Outputs[0], a.T)
		}
		if isCopy(n) {
			f.merged[n.Outputs[0].Name] = n.Inputs[0].Name
		}
	}
}

// hold notes the forms in which v, whose value is t, may hold a tensor of PyTorch's.
func (f *finder) hold(v *onnx.Value, t *tensor.Tensor) {
	if t.DType() == tensor.String || t.Len() == 0 {
		return
	}
	var scopes []string
	for _, n := range usersOf(v) {
		if at := strings.LastIndexByte(n.Name, '/'); at > 0 { // "/layers.0/norm/LayerNormalization"
			scopes = append(scopes, strings.ReplaceAll(strings.Trim(n.Name[:at], "/"), "/", "."))
		}
	}
	add := func(o Origin, t *tensor.Tensor) {
		o.Initializer = v.Name
		c := contentOf(t)
		f.held[c] = append(f.held[c], place{o, scopes})
	}
	p := pressed(t)
	add(Origin{Form: Verbatim}, p)
	if p.Rank() == 2 {
		if turned, err := transpose(p); err == nil {
			add(Origin{Form: Transposed}, turned)
		}
	}
	order, err := gateOrder(f.model, v)
	if err != nil || t.Rank() < 2 {
		return
	}
	rows, s := t.Shape()[1], t.Shape()
	if t.Rank() == 2 { // the biases of the input and of the state
		rows /= 2
	}
	if rows == 0 || rows%len(order) != 0 {
		return
	}
	for d := range s[0] {
		for at := 0; at+rows <= s[1]; at += rows {
			o := Origin{Form: Gates, Direction: d, Offset: at, Shape: append([]int{rows}, s[2:]...)}
			if part, err := o.take(f.model, v, t); err == nil {
				o.Shape = nil
				add(o, pressed(part))
			}
		}
	}
}

// whole is the places that hold a tensor, those that hold it as it is first.
func (f *finder) whole(c content) []place {
	places := slices.Clone(f.held[c])
	slices.SortStableFunc(places, func(a, b place) int { return rank(a.Form) - rank(b.Form) })
	return places
}

func rank(f Form) int { return slices.Index([]Form{Verbatim, Transposed, Gates}, f) }

// locate finds the tensors of those names, which have one value.
func (f *finder) locate(names []string, c content) {
	t := f.dict[names[0]]
	places := f.whole(c)
	for _, name := range names {
		f.found[name] = Origin{}
	}
	if t.Len() == 1 { // such as a number of batches: only its name tells
		places = slices.DeleteFunc(places, func(p place) bool { return !slices.Contains(names, p.Initializer) && !f.read(p, names) })
	}
	switch {
	case len(places) == 0:
		for _, name := range names {
			f.found[name] = f.joined(f.dict[name])
		}
	case oneNumber(t):
		f.apart(names, places)
	default:
		// Numbers that are all equal in two places are one parameter, though the file has it twice.
		first := max(0, slices.IndexFunc(places, func(p place) bool { return slices.Contains(names, p.Initializer) }))
		o := places[first].Origin
		for i, p := range places {
			if i != first && p.Form != Gates {
				o.Also = append(o.Also, p.Initializer)
			}
		}
		for _, name := range names {
			f.found[name] = o
			o.SameAs = names[0]
		}
	}
}

// read reports whether a node of the module of one of the names reads p.
func (f *finder) read(p place, names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(p.scopes, module(name)) })
}

// module is a parameter's name without its last part.
func module(name string) string { return name[:max(0, strings.LastIndexByte(name, '.'))] }

// apart gives each of the names, the elements of whose tensors are all one number, a place.
func (f *finder) apart(names []string, places []place) {
	var left []string
	take := func(name string, at int) {
		f.found[name] = places[at].Origin
		places = slices.Delete(places, at, at+1)
	}
	for _, name := range names {
		if i := slices.IndexFunc(places, func(p place) bool { return p.Initializer == name }); i >= 0 {
			take(name, i)
		} else {
			left = append(left, name)
		}
	}
	names, left = left, nil
	var shared []string
	for _, name := range names {
		of, merged := f.merged[name]
		at := slices.IndexFunc(places, func(p place) bool { return slices.Contains(p.scopes, module(name)) })
		switch {
		case merged:
			f.found[name] = Origin{Initializer: of, Form: Verbatim}
			shared = append(shared, of)
		case at >= 0:
			take(name, at)
		default:
			left = append(left, name)
		}
	}
	places = slices.DeleteFunc(places, func(p place) bool { return slices.Contains(shared, p.Initializer) })
	for i, name := range left {
		if len(places) == 0 {
			f.doubts = append(f.doubts, fmt.Sprintf("%s: where it is was not found, since all of its elements are equal, as others' are", name))
			continue
		}
		f.found[name] = places[min(i, len(places)-1)].Origin
		if len(left) > 1 || len(places) > 1 {
			f.doubts = append(f.doubts, fmt.Sprintf("%s: taken to be in %q by the order alone, since all of its elements are equal, as others' are", name, f.found[name].Initializer))
		}
	}
}

// joined is where the parts of t are, if the file has it in two or three, as it has attention's joint projection.
func (f *finder) joined(t *tensor.Tensor) Origin {
	if t.Rank() != 1 && t.Rank() != 2 || t.Shape()[0]%3 != 0 {
		return Origin{}
	}
	third, size := t.Shape()[0]/3, len(t.Bytes())/3
	for _, parts := range [][]int{{1, 2}, {1, 1, 1}} {
		o, at := Origin{Form: Joined}, 0
		for _, thirds := range parts {
			shape := append([]int{thirds * third}, t.Shape()[1:]...)
			part, err := tensor.FromBytes(t.DType(), shape, t.Bytes()[at*size:(at+thirds)*size], t)
			if err != nil {
				return Origin{}
			}
			places := slices.DeleteFunc(f.whole(contentOf(pressed(part))), func(p place) bool { return p.Form == Gates })
			if len(places) == 0 {
				break
			}
			p := places[0].Origin
			p.Shape = shape
			o.Parts = append(o.Parts, p)
			at += thirds
		}
		if len(o.Parts) == len(parts) {
			return o
		}
	}
	return Origin{}
}

// oneNumber reports whether all elements of t are one number.
func oneNumber(t *tensor.Tensor) bool {
	size := t.DType().Size()
	data := t.Bytes()
	for at := size; at+size <= len(data); at += size {
		if string(data[at:at+size]) != string(data[:size]) {
			return false
		}
	}
	return true
}

// Rename gives the initializers of m that hold one of the tensors, as it is or transposed, PyTorch's name for it, as far as nothing else has that name. It
// says how many that were.
func (n Names) Rename(m *onnx.Model) (count int) {
	taken := map[string]bool{}
	m.Graph.Walk(func(g *onnx.Graph) {
		for v := range g.Values() {
			taken[v.Name] = true
		}
	})
	for _, name := range slices.Sorted(maps.Keys(n)) {
		o := n[name]
		v := m.Graph.Init(o.Initializer)
		if v == nil || taken[name] || o.Form != Verbatim && o.Form != Transposed || slices.Contains(m.Graph.Inputs, v) {
			continue
		}
		if _, ok := n[v.Name]; ok { // it has the name of another that is the same
			continue
		}
		delete(taken, v.Name)
		v.Name, taken[name] = name, true
		count++
	}
	return count
}
