package finetune

import (
	"errors"
	"fmt"
	"math"
)

// Schedule is one of torch.optim.lr_scheduler's, with its names, defaults and formulas.
type Schedule interface {
	// at is the learning rate after k steps of the schedule, from the optimizer's.
	at(base float64, k int) float64
	check() error
}

// StepLR multiplies the rate by Gamma every Size steps.
type StepLR struct {
	Size  int
	Gamma float64 // default 0.1
}

// MultiStepLR multiplies the rate by Gamma at each milestone.
type MultiStepLR struct {
	Milestones []int
	Gamma      float64 // default 0.1
}

// ExponentialLR multiplies the rate by Gamma at each step.
type ExponentialLR struct{ Gamma float64 }

// CosineAnnealingLR goes down to EtaMin in TMax steps.
type CosineAnnealingLR struct {
	TMax   int
	EtaMin float64
}

// LinearLR goes from Start to End times the rate in Total steps.
type LinearLR struct {
	Start float64  // default 1/3
	End   *float64 // nil: 1
	Total int      // default 5
}

// OneCycleLR goes up to Max, and down again until Total steps are done, both on a cosine. Momentum is not cycled.
type OneCycleLR struct {
	Max      float64 // default: the optimizer's rate
	Total    int
	PctStart float64 // default 0.3
	Div      float64 // default 25
	FinalDiv float64 // default 1e4
}

// ReduceLROnPlateau multiplies the rate by Factor when the loss that [Trainer.Validated] is told has not become
// better for more than Patience of its calls.
type ReduceLROnPlateau struct {
	Factor    float64  // default 0.1
	Patience  *int     // nil: 10
	Threshold *float64 // relative; nil: 1e-4
	Cooldown  int
	MinLR     float64
	Eps       float64 // default 1e-8
}

// Warmup goes from Start times the rate up to it in Steps steps, and begins with Then after that.
type Warmup struct {
	Steps int
	Start float64
	Then  Schedule // nil: the rate stays
}

func (s StepLR) at(base float64, k int) float64 {
	return base * math.Pow(or(s.Gamma, 0.1), float64(k/s.Size))
}

func (s MultiStepLR) at(base float64, k int) float64 {
	for _, m := range s.Milestones {
		if k >= m {
			base *= or(s.Gamma, 0.1)
		}
	}
	return base
}

func (s ExponentialLR) at(base float64, k int) float64 { return base * math.Pow(s.Gamma, float64(k)) }

func (s CosineAnnealingLR) at(base float64, k int) float64 {
	return s.EtaMin + (base-s.EtaMin)*(1+math.Cos(math.Pi*float64(k)/float64(s.TMax)))/2
}

func (s LinearLR) at(base float64, k int) float64 {
	total := s.Total
	if total == 0 {
		total = 5
	}
	start, end := or(s.Start, 1.0/3), 1.0
	if s.End != nil {
		end = *s.End
	}
	return base * (start + (end-start)*float64(min(k, total))/float64(total))
}

func (s OneCycleLR) at(base float64, k int) float64 {
	top := or(s.Max, base)
	first := top / or(s.Div, 25)
	last := first / or(s.FinalDiv, 1e4)
	anneal := func(from, to, part float64) float64 { return to + (from-to)/2*(1+math.Cos(math.Pi*part)) }
	up := or(s.PctStart, 0.3)*float64(s.Total) - 1
	end := float64(s.Total - 1)
	switch x := float64(k); {
	case x <= up && up > 0:
		return anneal(first, top, x/up)
	case x >= end:
		return last
	default:
		return anneal(top, last, (x-up)/(end-up))
	}
}

func (ReduceLROnPlateau) at(base float64, _ int) float64 { return base }

func (s Warmup) at(base float64, k int) float64 {
	if k < s.Steps {
		return base * (s.Start + (1-s.Start)*float64(k)/float64(s.Steps))
	}
	if s.Then == nil {
		return base
	}
	return s.Then.at(base, k-s.Steps)
}

func positive(what string, n int) error {
	if n <= 0 {
		return fmt.Errorf("schedule: %s must be positive, got %d", what, n)
	}
	return nil
}

// share checks a number that is to be of 0 to 1.
func share(what string, v float64) error {
	if !(v >= 0 && v <= 1) {
		return fmt.Errorf("schedule: %s must be between 0 and 1, got %v", what, v)
	}
	return nil
}

func (s StepLR) check() error            { return positive("StepLR's size", s.Size) }
func (s MultiStepLR) check() error       { return nil }
func (s CosineAnnealingLR) check() error { return positive("CosineAnnealingLR's t_max", s.TMax) }
func (s OneCycleLR) check() error {
	return errors.Join(positive("OneCycleLR's total", s.Total), share("OneCycleLR's pct_start", s.PctStart))
}
func (s ExponentialLR) check() error {
	if s.Gamma <= 0 {
		return fmt.Errorf("schedule: ExponentialLR's gamma must be positive, got %v", s.Gamma)
	}
	return nil
}
func (s LinearLR) check() error {
	if s.Total < 0 {
		return positive("LinearLR's total", s.Total)
	}
	if s.End != nil {
		if err := share("LinearLR's end factor", *s.End); err != nil {
			return err
		}
	}
	return share("LinearLR's start factor", s.Start)
}
func (s ReduceLROnPlateau) check() error {
	if f := or(s.Factor, 0.1); f <= 0 || f >= 1 {
		return fmt.Errorf("schedule: ReduceLROnPlateau's factor must be between 0 and 1, got %v", f)
	}
	if s.Patience != nil && *s.Patience < 0 || s.Cooldown < 0 {
		return errors.New("schedule: ReduceLROnPlateau's patience and cooldown must not be negative")
	}
	return nil
}
func (s Warmup) check() error {
	if err := positive("the warm-up's steps", s.Steps); err != nil {
		return err
	}
	if err := share("the warm-up's start", s.Start); err != nil || s.Then == nil {
		return err
	}
	return s.Then.check()
}

// plateau is the state of a ReduceLROnPlateau.
type plateau struct {
	Best   float64 `json:"best"`
	Seen   bool    `json:"seen"`
	Bad    int     `json:"bad"`
	Cool   int     `json:"cool"`
	Factor float64 `json:"factor"` // of the rate, after the reductions so far
}

// tell notes a validation loss; rate is the rate that is not reduced.
func (p *plateau) tell(s ReduceLROnPlateau, loss, rate float64) {
	if p.Factor == 0 {
		p.Factor = 1
	}
	bound := math.Inf(1)
	if p.Seen {
		threshold := 1e-4
		if s.Threshold != nil {
			threshold = *s.Threshold
		}
		bound = p.Best * (1 - threshold)
	}
	if loss < bound {
		p.Best, p.Seen, p.Bad = loss, true, 0
	} else {
		p.Bad++
	}
	if p.Cool > 0 {
		p.Cool, p.Bad = p.Cool-1, 0
	}
	patience := 10
	if s.Patience != nil {
		patience = *s.Patience
	}
	if p.Bad > patience {
		old := rate * p.Factor
		if lower := max(old*or(s.Factor, 0.1), s.MinLR); old-lower > or(s.Eps, 1e-8) {
			p.Factor = lower / rate
		}
		p.Cool, p.Bad = s.Cooldown, 0
	}
}
