# make train [CONFIG=configs/ku.py] [ARGS="--config.rounds=50"]   set up, then train; needs only python >= 3.11 and make
# make test                                                       set up, then style and type checks and the fast tests
# make test-slow                                                  set up, then the tests marked slow
# make federation                                                 set up, then a federation of processes on this machine
# make docs                                                       set up, then build the documentation into site/
# make wheel                                                      set up, then build the package into dist/
# make clean                                                      remove the environment, the caches and what was built

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3 python,\
	$(shell $(p) -c "import sys; sys.version_info >= (3, 11) and print('$(p)')" 2>/dev/null)))
CONFIG ?= configs/quickstart.py
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
DOCS := $(VENV)/.ready-docs
FLOWER := $(VENV)/.ready-flower

# Every compiled program is kept, the many small ones too.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES ?= 0
# So is compiled Python, whatever the environment says: tests start two hundred processes.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Only modules that are imported are compiled, when they are: all others would be half of the installation.
INSTALL := $(PIP) install --quiet --no-compile
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: train test test-fast test-slow style types federation docs wheel clean

train: $(RUN)
	$(BIN)/python experiments/train.py --config=$(CONFIG) $(ARGS)

test: style types test-fast

test-fast: $(DEV)
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(DEV)
	$(PYTEST) -m slow $(ARGS)

style: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

# The shell is replaced, so that Ctrl-C reaches the command alone, and it ends all processes that it started.
federation: $(FLOWER)
	exec $(BIN)/python experiments/federation.py --config=configs/federation.py $(ARGS)

docs: $(DOCS)
	$(BIN)/mkdocs build --strict

# From an empty build/, or modules deleted since the last time would come along.
wheel: $(RUN)
	rm -rf build dist fedvlr_jax.egg-info
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .

# A stamp is newer than its requirements exactly when they are installed.
$(RUN): requirements.txt
	@test -n "$(PYTHON)" || { echo "expected python >= 3.11 on the path (or make PYTHON=...), found none" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(INSTALL) -r requirements.txt
	touch $@

$(DEV): $(RUN) requirements-dev.txt $(shell sed -n 's/^-r //p' requirements-dev.txt)
	$(INSTALL) -r requirements.txt -r requirements-dev.txt
	touch $@

$(DOCS): $(RUN) requirements/docs.txt
	$(INSTALL) -r requirements/docs.txt
	touch $@

$(FLOWER): $(RUN) requirements/flower.txt
	$(INSTALL) -r requirements/flower.txt
	touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist site fedvlr_jax.egg-info
