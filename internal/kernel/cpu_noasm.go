package kernel

func detect() level { return levelGo }

var vectorLevels [numLevels]vectorKernels
