# `make demo` and `make test` do all their set-up on a machine with Python 3.11+, make and the package registry.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test integrations cluster slow claims reproduce lint types docs wheel clean

demo: $(VENV)/.installed
	$(BIN)/lrscope run digits --out lrscope-runs/demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 -q

# Against packages that are large, or that pull in what the tests do not need. timm lies apart with the torchvision that
# it imports, of which only an old one loads beside every build of torch: other packages would use it where they see it.
integrations: $(VENV)/.installed-dev
	$(PIP) -c constraints.txt jax optax optuna wandb mlflow-skinny trackio requests
	$(BIN)/python -m pytest -q tests/reference/test_optax.py tests/unit/adapters/test_loggers.py tests/unit/sweeps/test_optuna.py
	$(PIP) --no-deps --upgrade --target $(VENV)/timm timm==1.0.31 torchvision==0.15.2
	PYTHONPATH=$(VENV)/timm $(BIN)/python -m pytest -q tests/reference/test_import_timm.py tests/reference/test_hvp_matrix.py -k timm

# Sweeps on Ray: a local cluster, one of two nodes, and what happens when workers, drivers and nodes are killed.
cluster: $(VENV)/.installed-dev
	$(PIP) -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest -q tests/distributed/test_sweep_ray.py

# The papers' main statements, measured in a few minutes; all of them, in some twenty.
claims: $(VENV)/.installed
	$(BIN)/lrscope reproduce --quick

reproduce: $(VENV)/.installed
	$(BIN)/lrscope reproduce

slow: $(VENV)/.installed-dev
	$(PIP) --no-deps curvlinops-for-pytorch==3.0.1 backpack-for-pytorch einops einconv linear-operator opt-einsum \
	    jaxtyping wadler-lindig
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/pyright

docs: $(VENV)/.installed-docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build

wheel: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --quiet --wheel --no-isolation

clean:
	rm -rf $(VENV) dist docs/_build

# torch first and alone: the constraint then holds for everything after it, and no other build is considered.
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==$$(sed -n 's/^torch==//p' constraints.txt)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: $(VENV)/.torch pyproject.toml
	$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@
