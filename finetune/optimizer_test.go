package finetune

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/retune-go/retune/internal/kernel"
	"github.com/retune-go/retune/tensor"
)

// optim is testdata/optim.json: what PyTorch computed.
type optim struct {
	Begin, Losses []float64
	Optimizers    []struct {
		Name                                string
		LR, Momentum, Dampening, Alpha, Eps float64
		WeightDecay                         *float64 `json:"weight_decay"`
		LRDecay                             float64  `json:"lr_decay"`
		Initial                             float64  `json:"initial_accumulator_value"`
		Betas                               [2]float64
		Nesterov, Centered, AMSGrad         bool
		Steps                               [][]float64
	}
	Schedules []struct {
		Name                     string
		Gamma, Factor, Threshold float64
		StepSize                 int `json:"step_size"`
		Milestones               []int
		TMax                     int     `json:"T_max"`
		EtaMin                   float64 `json:"eta_min"`
		Start                    float64 `json:"start_factor"`
		End                      float64 `json:"end_factor"`
		Total                    int     `json:"total_iters"`
		MaxLR                    float64 `json:"max_lr"`
		TotalSteps               int     `json:"total_steps"`
		PctStart                 float64 `json:"pct_start"`
		Div                      float64 `json:"div_factor"`
		FinalDiv                 float64 `json:"final_div_factor"`
		Patience, Cooldown       int
		MinLR                    float64 `json:"min_lr"`
		Rates                    []float64
	}
}

func recorded(t *testing.T) *optim {
	t.Helper()
	text, err := os.ReadFile("testdata/optim.json")
	if err != nil {
		t.Fatal(err)
	}
	var o optim
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatal(err)
	}
	return &o
}

// Every option of every optimizer, step by step.
func TestOptimizersArePyTorchs(t *testing.T) {
	rec := recorded(t)
	for i, c := range rec.Optimizers {
		decay := 0.0
		if c.WeightDecay != nil {
			decay = *c.WeightDecay
		}
		var o Optimizer
		switch c.Name {
		case "SGD":
			o = SGD{LR: c.LR, Momentum: c.Momentum, Dampening: c.Dampening, Nesterov: c.Nesterov, WeightDecay: decay}
		case "Adam":
			o = Adam{LR: c.LR, Betas: c.Betas, Eps: c.Eps, WeightDecay: decay, AMSGrad: c.AMSGrad}
		case "AdamW":
			o = AdamW{LR: c.LR, Betas: c.Betas, Eps: c.Eps, WeightDecay: decay, NoDecay: c.WeightDecay != nil && decay == 0, AMSGrad: c.AMSGrad}
		case "RMSprop":
			o = RMSprop{LR: c.LR, Alpha: c.Alpha, Eps: c.Eps, WeightDecay: decay, Momentum: c.Momentum, Centered: c.Centered}
		case "Adagrad":
			o = Adagrad{LR: c.LR, LRDecay: c.LRDecay, WeightDecay: decay, Initial: c.Initial, Eps: c.Eps}
		}
		t.Run(fmt.Sprint(i, c.Name), func(t *testing.T) {
			steps(t, rec.Begin, c.Steps, o, func(t int) update[float32] { return o.rule(t, o.rate()).f32 })
			steps(t, rec.Begin, c.Steps, o, func(t int) update[float64] { return o.rule(t, o.rate()).f64 })
		})
	}
}

func steps[T kernel.Float](t *testing.T, begin []float64, want [][]float64, o Optimizer, rule func(t int) update[T]) {
	t.Helper()
	w := make([]T, len(begin))
	for k, v := range begin {
		w[k] = T(v)
	}
	names, initial := o.slots()
	var s [maxSlots][]T
	for i := range names {
		s[i] = slices.Repeat([]T{T(initial)}, len(w))
	}
	for step := range want {
		g := make([]T, len(w))
		for k, v := range w {
			g[k] = v*T(float64(step+1)/3) - 1
		}
		rule(step+1)(w, g, &s)
		for k, v := range want[step] {
			if math.Abs(float64(w[k])-v) > 1e-6*max(1, math.Abs(v)) {
				t.Fatalf("%T step %d: %v, PyTorch %v", w, step+1, w, want[step])
			}
		}
	}
}

// A beta of 0 beside one that is not is meant: the step is by the gradient itself, as GANs are trained.
func TestAdamWithoutMomentum(t *testing.T) {
	w, g := []float64{1}, []float64{0.5}
	var s [maxSlots][]float64
	s[0], s[1] = []float64{0}, []float64{0}
	o := Adam{LR: 0.1, Betas: [2]float64{0, 0.9}}
	v, want := 0.0, 1.0
	for step := 1; step <= 3; step++ {
		g[0] = 0.5 * float64(step)
		v = 0.9*v + 0.1*g[0]*g[0]
		want -= 0.1 * g[0] / (math.Sqrt(v/(1-math.Pow(0.9, float64(step)))) + 1e-8)
		o.rule(step, 0.1).f64(w, g, &s)
		if math.Abs(w[0]-want) > 1e-12 {
			t.Fatalf("after step %d it is %v, want %v", step, w[0], want)
		}
	}
}

func TestOptimizersRefused(t *testing.T) {
	for _, c := range []Config{
		{Optimizer: SGD{LR: -1}}, {Optimizer: SGD{Nesterov: true}}, {Optimizer: SGD{Nesterov: true, Momentum: 1, Dampening: 1}}, {Optimizer: Adam{Betas: [2]float64{0.9, 1}}},
		{Optimizer: Adam{Betas: [2]float64{-0.1, 0.9}}}, {Optimizer: AdamW{WeightDecay: -1}}, {Optimizer: RMSprop{Eps: math.NaN()}}, {Optimizer: Adagrad{LR: math.Inf(1)}},
		{Optimizer: SGD{}, L1: -1}, {Optimizer: SGD{}, ClipValue: -1}, {Optimizer: SGD{}, Schedule: StepLR{}}, {},
	} {
		c.Loss = MSE{Output: "y", Target: "t"}
		if tr, err := New(linear(t, tensor.Float32), c); err == nil {
			tr.Close()
			t.Errorf("%+v was taken", c)
		}
	}
}

func TestSchedulesArePyTorchs(t *testing.T) {
	rec := recorded(t)
	given := func(v float64) *float64 {
		if v == 0 {
			return nil
		}
		return &v
	}
	for i, c := range rec.Schedules {
		var s Schedule
		switch c.Name {
		case "StepLR":
			s = StepLR{Size: c.StepSize, Gamma: c.Gamma}
		case "MultiStepLR":
			s = MultiStepLR{Milestones: c.Milestones, Gamma: c.Gamma}
		case "ExponentialLR":
			s = ExponentialLR{Gamma: c.Gamma}
		case "CosineAnnealingLR":
			s = CosineAnnealingLR{TMax: c.TMax, EtaMin: c.EtaMin}
		case "LinearLR":
			s = LinearLR{Start: c.Start, End: given(c.End), Total: c.Total}
		case "OneCycleLR":
			s = OneCycleLR{Max: c.MaxLR, Total: c.TotalSteps, PctStart: c.PctStart, Div: c.Div, FinalDiv: c.FinalDiv}
		case "ReduceLROnPlateau":
			s = ReduceLROnPlateau{Factor: c.Factor, Patience: &c.Patience, Threshold: given(c.Threshold), Cooldown: c.Cooldown, MinLR: c.MinLR}
		}
		if err := s.check(); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		tr := &Trainer{cfg: Config{Optimizer: SGD{LR: 0.1}, Schedule: s, ScheduleEvery: 2}}
		for k, want := range c.Rates {
			for half := range 2 {
				if got := tr.LR(); math.Abs(got-want) > 1e-12 {
					t.Errorf("%d %s: rate %v at step %d (%d), PyTorch's %v", i, c.Name, got, k, half, want)
				}
				tr.at.Steps++
			}
			tr.Validated(rec.Losses[k])
		}
	}
	w := Warmup{Steps: 4, Start: 0.2, Then: StepLR{Size: 2}}
	var got []float64
	for k := range 8 {
		got = append(got, math.Round(w.at(1, k)*1e6)/1e6)
	}
	if want := []float64{0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1}; !slices.Equal(got, want) {
		t.Errorf("warm-up %v, want %v", got, want)
	}
	if got := (LinearLR{Start: 1, End: new(0.0), Total: 4}).at(1, 3); got != 0.25 {
		t.Errorf("going down to nothing in four steps it is %v after three", got)
	}
	if got := (LinearLR{Start: 1, End: new(0.0), Total: 4}).at(1, 9); got != 0 {
		t.Errorf("in the end it is %v", got)
	}
	for _, s := range []Schedule{LinearLR{Start: 2}, LinearLR{End: new(-0.1)}, OneCycleLR{Total: 1, PctStart: 1.5}, Warmup{Steps: 1, Start: -1}, ReduceLROnPlateau{Cooldown: -1},
		StepLR{}, CosineAnnealingLR{}, OneCycleLR{Total: -1}, ExponentialLR{}, LinearLR{Total: -1}, ReduceLROnPlateau{Factor: 2}, Warmup{}, Warmup{Steps: 1, Then: StepLR{}}} {
		if s.check() == nil {
			t.Errorf("%+v was taken", s)
		}
	}
}
