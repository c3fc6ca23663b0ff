# Every habit is a target; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
PYTHON  ?= python3

ORT_DIR   := $(CURDIR)/.ort
MODULE    := github.com/pilotlight-ml/pilotlight
TOOLS     := $(CURDIR)/.tools
VENV      := $(CURDIR)/.venv
DATA_DIR  ?= $(CURDIR)/.data
LIB_NAME  := $(if $(filter Darwin,$(shell uname -s)),libonnxruntime.dylib,libonnxruntime.so)
export ORT_LIB ?= $(ORT_DIR)/$(LIB_NAME)

# gRPC's own pages of traces would be in every program, by templates that call methods by their names, for which the
# linker keeps all methods there are (docs/adr/0036); ko.yaml says it for images.
export GOFLAGS := $(strip $(filter-out -tags=grpcnotrace,$(GOFLAGS)) -tags=grpcnotrace)

# How images are built, and what for: ko puts one kodata folder into images for all platforms, so it is one at a time.
# ko takes no base per image from the environment; .ko.yaml is ko.yaml with those of STATIC_BASEIMAGE.
export KO_CONFIG_PATH := $(if $(STATIC_BASEIMAGE),.ko.yaml,ko.yaml)
PLATFORM ?= linux/$(shell $(GO) env GOARCH)
ORT_IMAGE_DIR := $(ORT_DIR)/$(subst /,-,$(PLATFORM))

# Where `make deploy` goes beside KUBECONFIG and KO_DOCKER_REPO; knative/deploy.sh tells of each.
export OVERLAY COMPONENTS NAMESPACE REDIS_IMAGE S3_IMAGE COLLECTOR_IMAGE POD_LOGS KNATIVE_INGRESS_URL
OVERLAY   ?= dev
NAMESPACE ?= pilotlight

PKG      ?= ./...
FUZZTIME ?= 30s

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

.PHONY: run
run: build ort ## serve everything on 127.0.0.1:8080, with the flights model in it
	SEED=examples/flights DATA_DIR="$(DATA_DIR)" exec bin/all

.PHONY: demo
demo: build ort flights-venv ## replay a year of flights with nobody's hands on it: drift, a model learnt anew, judged, brought out; in minutes
	examples/flights/loop/demo.sh

.PHONY: build
build: ## build bin/pilotlight (the client) and the functions
	@mkdir -p bin
	$(GO) build -o bin/ ./cmd/pilotlight ./functions/predict ./functions/features ./functions/feedback ./functions/deadletter ./functions/pipeline ./functions/gateway ./functions/all

.PHONY: ort
ort: ## get the ONNX Runtime library for this machine into .ort
	@[ "$(ORT_LIB)" != "$(ORT_DIR)/$(LIB_NAME)" ] || env -u ORT_LIB internal/engine/onnx/library.sh "$(ORT_DIR)"

.PHONY: test
test: ort s3 venv feast evidently flights-venv schemathesis cloudevents h2spec collector ## run all tests (with a real Redis, S3 server and Python clients)
	$(GO) test $(TESTFLAGS) $(PKG)

.PHONY: race
race: ort s3 venv feast evidently flights-venv schemathesis cloudevents h2spec collector ## run all tests under the race detector
	$(GO) test -race $(TESTFLAGS) $(PKG)

.PHONY: screenshots
screenshots: ort ## take pictures of the console's pages into docs/console, of CONSOLE_URL or of the flights seed
	SCREENSHOTS=$(or $(SCREENSHOTS),$(CURDIR)/docs/console) $(GO) test ./test/browser -run TestScreenshots -count=1 -v

.PHONY: fuzz
fuzz: ort ## run every fuzz target for FUZZTIME (30s)
	@for pkg in $$(grep -rlE '^func Fuzz' --include='*_test.go' internal | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' $$pkg/*_test.go | cut -c6-); do \
	    echo "$$pkg $$f"; $(GO) test ./$$pkg -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s -parallel 2; \
	  done; done

.PHONY: bench
bench: ort s3 peers feast ## measure overhead, start, load and memory, and other servers; results in docs/bench
	$(GO) run ./test/bench

PEERS := $(CURDIR)/.peers

.PHONY: peers
peers: $(patsubst test/bench/peers/requirements-%.txt,$(PEERS)/%/.done,$(wildcard test/bench/peers/requirements-*.txt)) $(PEERS)/node/.done ## install the servers that bench measures beside ours

.PHONY: conformance
conformance: venv ## try a running server (URL=127.0.0.1:8080) with tritonclient and, after `make kserve` and `make schemathesis`, with these
	$(VENV)/bin/python test/conformance/triton_http.py $(or $(URL),127.0.0.1:8080)
	$(VENV)/bin/python test/conformance/triton_grpc.py $(or $(URL),127.0.0.1:8080)
	$(or $(wildcard $(VENV)-kserve/bin/python),$(VENV)/bin/python) test/conformance/kserve_rest.py $(or $(URL),127.0.0.1:8080)
	$(if $(wildcard $(VENV)-kserve/bin/python),$(VENV)-kserve/bin/python test/conformance/kserve_clients.py $(or $(URL),127.0.0.1:8080))
	$(if $(wildcard $(VENV)-schemathesis/bin/python),$(VENV)-schemathesis/bin/python test/conformance/openapi.py $(or $(URL),127.0.0.1:8080))

.PHONY: base
base:
	@[ -n "$$KO_DEFAULTBASEIMAGE" ] || { echo 'set KO_DEFAULTBASEIMAGE to a base image with glibc and libstdc++, such as cc-debian12:nonroot of the distroless project' >&2; exit 1; }
	@[ -z "$(STATIC_BASEIMAGE)" ] || { cat ko.yaml; echo; echo baseImageOverrides:; \
	  for f in functions/deadletter functions/feedback functions/gateway cmd/trainer test/receiver test/steps test/trainer; do echo "  $(MODULE)/$$f: $(STATIC_BASEIMAGE)"; done; } > .ko.yaml

.PHONY: kodata
kodata: ## put the ONNX Runtime library of PLATFORM where ko finds it for the images
	@use=(); [ "$(ORT_LIB)" != "$(ORT_DIR)/$(LIB_NAME)" ] || use=(env -u ORT_LIB); \
	"$${use[@]}" internal/engine/onnx/library.sh "$(ORT_IMAGE_DIR)" "$(PLATFORM)"
	@for f in predict pipeline all; do \
	  mkdir -p functions/$$f/kodata; ln -f "$(ORT_IMAGE_DIR)/libonnxruntime.so" functions/$$f/kodata/; done # ko refuses symlinks that lead out

.PHONY: images
images: base kodata ## build the images into .images and tell their sizes
	rm -rf .images
	KO_DOCKER_REPO=pilotlight ko build --push=false --base-import-paths --platform=$(PLATFORM) --oci-layout-path=.images ./functions/predict ./functions/features ./functions/feedback ./functions/deadletter ./functions/gateway ./functions/pipeline ./functions/all
	$(GO) run ./test/imagesize .images

.PHONY: deploy
deploy: base kodata ## put OVERLAY (dev) on the cluster of KUBECONFIG, and get a prediction from it
	knative/deploy.sh deploy

.PHONY: undeploy
undeploy: ## take it off again, with everything in its namespace
	knative/deploy.sh undeploy

.PHONY: e2e
e2e: base kodata ort venv ## try it on the cluster of KUBECONFIG, in a namespace of its own
	$(GO) test -tags=e2e -count=1 -timeout=60m -v $(TESTFLAGS) ./test/e2e

.PHONY: gen
gen: build ## write what is generated: docs/config.md, docs/events.md, docs/metrics.md, internal/event/schema
	$(GO) run ./internal/event/gen .
	@{ echo '# Configuration'; echo; \
	  echo 'Written by `make gen`; what is in force in a process shows `bin/all -config`. Beside these the SDKs read their own'; \
	  echo 'variables: `AWS_*` for S3, `OTEL_*` for traces and metrics.'; echo; \
	  env -i bin/all -config=markdown; } > docs/config.md
	$(GO) run ./knative/monitoring/gen metrics internal > docs/metrics.md

.PHONY: dashboards
dashboards: ## write the dashboards for Grafana into .monitoring, as files and as a ConfigMap
	$(GO) run ./knative/monitoring/gen dashboards .monitoring

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## format the code
	$(TOOLS)/golangci-lint fmt

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## look for mistakes
	$(TOOLS)/golangci-lint run

.PHONY: check
check: gen ## what to run before a commit: clean generated files, format, lint, vet, race tests
	@git diff --exit-code -- docs/config.md docs/events.md docs/metrics.md internal/event/schema || { echo 'generated files were stale: commit them' >&2; exit 1; }
	$(GO) mod tidy -diff
	$(MAKE) lint
	$(GO) vet $(PKG)
	$(MAKE) race

.PHONY: hooks
hooks: ## have git run format, vet and gen before each commit
	git config core.hooksPath .githooks

.PHONY: s3
s3: $(TOOLS)/versitygw ## build the S3 server that tests run

.PHONY: h2spec
h2spec: $(TOOLS)/h2spec ## build the conformance tool of HTTP/2 that tests run

.PHONY: cloudevents
cloudevents: $(TOOLS)/cloudevents ## build the conformance tool of CloudEvents that tests run

.PHONY: collector
collector: $(TOOLS)/collector ## build the OpenTelemetry Collector that tests run

.PHONY: collector-image
collector-image: ## put it into KO_DOCKER_REPO and tell its name, for clusters that can't pull the public one
	@cd test/collector && KO_CONFIG_PATH=. KO_DEFAULTBASEIMAGE="$(or $(STATIC_BASEIMAGE),$(KO_DEFAULTBASEIMAGE))" ko build --base-import-paths --platform=$(PLATFORM) .

.PHONY: venv
venv: $(VENV)/.done ## make the Python environment that tests run clients in

.PHONY: kserve
kserve: $(VENV)-kserve/.done ## make the Python environment with kserve's clients (450 MB), for conformance and tests

$(VENV)-kserve/.done:
	$(PYTHON) -m venv $(VENV)-kserve
	$(VENV)-kserve/bin/pip install --quiet --disable-pip-version-check kserve==0.21.0
	touch $@

.PHONY: feast
feast: $(VENV)-feast/.done ## make the Python environment with Feast's SDK (600 MB), for conformance and tests

$(VENV)-feast/.done: test/conformance/requirements-feast.txt
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  set -x; $(PYTHON) -m venv $(VENV)-feast; \
	  $(VENV)-feast/bin/pip install --quiet --disable-pip-version-check -r $<; \
	  touch $@; \
	else echo "no Python with venv here: the tests with Feast's SDK will be skipped" >&2; fi

.PHONY: evidently
evidently: $(VENV)-evidently/.done ## make the Python environment with Evidently (1 GB), for tests of drift

$(VENV)-evidently/.done: test/conformance/requirements-evidently.txt
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  set -x; $(PYTHON) -m venv $(VENV)-evidently; \
	  $(VENV)-evidently/bin/pip install --quiet --disable-pip-version-check -r $<; \
	  touch $@; \
	else echo "no Python with venv here: the tests with Evidently will be skipped" >&2; fi

.PHONY: flights-venv
flights-venv: $(VENV)-flights/.done ## make the Python environment that trains the flights model (1 GB), for the demo and for tests of trainers

$(VENV)-flights/.done: examples/flights/requirements.txt
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  set -x; $(PYTHON) -m venv $(VENV)-flights; \
	  $(VENV)-flights/bin/pip install --quiet --disable-pip-version-check -r $<; \
	  touch $@; \
	else echo "no Python with venv here: the tests of trainers in Python will be skipped, and the demo's models are those of the built-in trainer" >&2; fi

.PHONY: schemathesis
schemathesis: $(VENV)-schemathesis/.done ## make the Python environment with schemathesis (110 MB), for conformance and tests

$(VENV)-schemathesis/.done: test/conformance/requirements-schemathesis.txt
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  set -x; $(PYTHON) -m venv $(VENV)-schemathesis; \
	  $(VENV)-schemathesis/bin/pip install --quiet --disable-pip-version-check -r $<; \
	  touch $@; \
	else echo "no Python with venv here: the test with schemathesis will be skipped" >&2; fi

# Tools are pinned in a modfile of their own, so that they weigh on nobody else.
$(TOOLS)/versitygw: tool.mod
	$(GO) build -modfile=tool.mod -o $@ github.com/versity/versitygw/cmd/versitygw

$(TOOLS)/h2spec: tool.mod
	$(GO) build -modfile=tool.mod -o $@ github.com/summerwind/h2spec/cmd/h2spec

$(TOOLS)/cloudevents: tool.mod
	$(GO) build -modfile=tool.mod -o $@ github.com/cloudevents/conformance/cmd/cloudevents

# A module of its own: what it links is more than all else here, and none of it is ours.
$(TOOLS)/collector: test/collector/go.mod test/collector/main.go
	cd test/collector && CGO_ENABLED=0 $(GO) build -trimpath -ldflags='-s -w' -o $@ .

$(TOOLS)/golangci-lint: tool.mod
	$(GO) build -modfile=tool.mod -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# A peer that can't be installed is left out, and the bench says so.
define peer
@mkdir -p $(@D); rm -f $(@D)/.failed
@if ( $(1) ) > $(@D)/install.log 2>&1; then touch $@; \
else grep . $(@D)/install.log | tail -n 1 > $(@D)/.failed; echo "SKIPPED: the peer $(notdir $(@D)) can't be installed: $$(cat $(@D)/.failed)" >&2; fi
endef

$(PEERS)/node/.done: test/bench/peers/package.json test/bench/peers/package-lock.json
	$(call peer,cp test/bench/peers/package*.json $(@D)/ && npm ci --prefix $(@D) --ignore-scripts --no-audit --no-fund)

$(PEERS)/%/.done: test/bench/peers/requirements-%.txt
	$(call peer,$(PYTHON) -m venv $(@D) && $(@D)/bin/pip install --disable-pip-version-check -r $<)

$(VENV)/.done: test/conformance/requirements.txt
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
	  set -x; $(PYTHON) -m venv $(VENV); \
	  $(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<; \
	  touch $@; \
	else echo 'no Python with venv here: the test with tritonclient will be skipped' >&2; fi
