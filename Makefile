# make train [CONFIG=configs/ku.py] [ARGS="--config.rounds=50"]   set up, then train; needs only python >= 3.11 and make
# make test                                                       set up, then style checks and the fast tests
# make test-slow                                                  set up, then the tests marked slow
# make clean                                                      remove the environment and the caches

PYTHON ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3 python,\
	$(shell $(p) -c "import sys; sys.version_info >= (3, 11) and print('$(p)')" 2>/dev/null)))
CONFIG ?= configs/quickstart.py
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
PYTEST := $(BIN)/python -m pytest -n auto --dist worksteal

.PHONY: train test test-slow clean

train: $(READY)
	$(BIN)/python experiments/train.py --config=$(CONFIG) $(ARGS)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(READY)
	$(PYTEST) -m slow $(ARGS)

# The stamp is newer than the requirements exactly when they are installed.
$(READY): requirements.txt
	@test -n "$(PYTHON)" || { echo "expected python >= 3.11 on the path (or make PYTHON=...), found none" >&2; exit 2; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $(READY)

clean:
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis
