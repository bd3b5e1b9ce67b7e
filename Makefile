GO ?= go
STATICCHECK = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
CROSS = linux/arm64 darwin/arm64 windows/amd64 js/wasm

.PHONY: demo test conformance conformance-ort exports parity race fuzz bench bench-train lint generate check cross

# The main job on real data: load, check, fine-tune, write back.
demo:
	CGO_ENABLED=0 $(GO) run ./cmd/demo

# What CI runs.
test: lint cross
	CGO_ENABLED=0 $(GO) build ./...
	$(GO) test ./...
	$(MAKE) race
	$(MAKE) conformance

# The race detector needs a C compiler; without one the run is skipped, and says so.
race:
	@if command -v $${CC:-gcc} >/dev/null 2>&1; then \
		CGO_ENABLED=1 $(GO) test -race -short ./runtime ./finetune; \
	else echo "skipped: the race detector needs a C compiler"; fi

# The standard's own cases; see internal/testkit for where they are looked for.
conformance:
	$(GO) test -count=1 -v -run 'TestConformance|TestLightModels|TestRealModels' ./internal/cli
	$(GO) test -count=1 -run TestPassesChangeNothing ./runtime -corpus real

# Every operator beside ONNX Runtime, which comes by npm; see internal/difftest.
conformance-ort:
	npm install --silent --ignore-scripts --prefix scripts/ort
	$(GO) test -count=1 ./internal/difftest $(DIFFFLAGS)

# Networks as PyTorch exports them at several opsets, and as ONNX Runtime's optimizer leaves them, beside PyTorch's answers.
EXPORTS = $(CURDIR)/.cache/exports
exports:
	/usr/bin/python3 scripts/exports/export.py $(EXPORTS)/plain
	npm install --silent --ignore-scripts --prefix scripts/ort
	node scripts/exports/optimize.mjs $(EXPORTS)/plain $(EXPORTS)/optimized
	$(GO) run ./cmd/retune verify $(EXPORTS)/plain $(EXPORTS)/optimized
	$(GO) test -count=1 -run TestPassesChangeNothing ./runtime -corpus $(EXPORTS)/plain,$(EXPORTS)/optimized

# Networks of every kind as PyTorch trains them, and fine-tuning on another domain, beside PyTorch: gradients, losses, weights.
PARITY = $(CURDIR)/.cache/parity
parity:
	/usr/bin/python3 scripts/parity/parity.py $(PARITY)
	test -d $(PARITY)/transfer || /usr/bin/python3 scripts/parity/transfer.py $(PARITY)
	$(GO) test -count=1 -v -timeout 30m -run 'TestParity|TestTransfer' ./finetune -parity $(PARITY)

# Every fuzz target in turn: loading, each decoder, each operator, its shapes and its gradient, and the passes.
FUZZTIME = 20s
fuzz:
	@$(GO) test -list '^Fuzz' ./... | while read -r name package _; do case $$name in \
		Fuzz*) targets="$$targets $$name" ;; \
		ok) for target in $$targets; do echo "$$package $$target" && \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; done; targets= ;; \
		esac; done

# Retune beside ONNX Runtime, which comes by npm; see bench/README.md.
BENCH = $(CURDIR)/.cache/bench
bench:
	npm install --silent --ignore-scripts --prefix $(BENCH) onnxruntime-node@1.30.0
	test -f $(BENCH)/models/rows.json || /usr/bin/python3 bench/export.py $(BENCH)/models
	cd bench && CGO_ENABLED=1 $(GO) build -o $(BENCH)/bench . && $(BENCH)/bench -models $(BENCH)/models \
		-ort $$(ls $(BENCH)/node_modules/onnxruntime-node/bin/napi-v*/linux/x64/libonnxruntime.so.1) $(BENCHFLAGS)

# A step of training beside PyTorch's.
bench-train:
	cd bench && CGO_ENABLED=1 $(GO) build -o $(BENCH)/bench . && $(BENCH)/bench -train $(CURDIR)/bench/train.py -models $(BENCH)/train $(BENCHFLAGS)

lint:
	@test -z "$$(gofmt -l .)" || { echo "gofmt wants:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

cross:
	@for t in $(CROSS); do echo "cross-build $$t"; \
		CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) build ./... && \
		CGO_ENABLED=0 GOOS=$${t%/*} GOARCH=$${t#*/} $(GO) vet ./... || exit 1; done

generate:
	$(GO) generate ./...

check: lint
	$(GO) test ./...
