# Every target makes what it needs, the Python environment included.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
TORCH_CONSTRAINTS ?= constraints-torch.txt
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WANTED := $(VENV)/.wanted
PIP_INSTALL := -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: always help demo test test-channel lint types proto proto-check deploy-check bench \
	constraints clean

help:  ## Lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-13s%s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# All that decides what is installed: of pyproject.toml, what stands before the tools' settings.
$(WANTED): always
	@mkdir -p $(@D)
	@sed '/^\[tool\.ruff\]/,$$d' pyproject.toml | cat - constraints.txt $(TORCH_CONSTRAINTS) > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(INSTALLED): $(WANTED)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) -c $(TORCH_CONSTRAINTS) -e '.[all]'
	touch $@

demo: $(INSTALLED)  ## Sends sample faces over a noisy link and draws what comes back (ARGS="--help")
	$(BIN)/commin demo $(ARGS)

test: $(INSTALLED)  ## Runs the tests (ARGS="-m 'not slow'")
	$(BIN)/python -m pytest -m 'not gpu' $(ARGS)

$(VENV)-channel/.installed: $(WANTED)
	test -x $(VENV)-channel/bin/python || $(PYTHON) -m venv $(VENV)-channel
	$(VENV)-channel/bin/python $(PIP_INSTALL) -e '.[channel]' \
		hypothesis pytest pytest-asyncio pytest-timeout
	touch $@

test-channel: $(VENV)-channel/.installed  ## Runs the channel's tests where only its extra is installed
	! $(VENV)-channel/bin/python -m pip show --quiet torch 2> /dev/null
	$(VENV)-channel/bin/python -m pytest tests/unit/channel tests/unit/test_tensors.py

lint: $(INSTALLED)  ## Checks style, import directions and the protocol files
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/python proto/generate.py --lint

types: $(INSTALLED)  ## Checks types
	$(BIN)/mypy

proto: $(INSTALLED)  ## Generates the stubs in commin/v1
	$(BIN)/python proto/generate.py

proto-check: $(INSTALLED)  ## Fails if the stubs in commin/v1 are not up to date
	$(BIN)/python proto/generate.py --check

deploy-check: $(INSTALLED)  ## Checks the files of the deployment
	deploy/install-tools.sh $(VENV)-deploy
	DEPLOY_TOOLS=$(VENV)-deploy COMMIN_PYTHON=$(BIN)/python deploy/check.sh

bench: $(INSTALLED)  ## Runs the benchmarks (ARGS="link --quick", ARGS=--write for RESULTS.md)
	$(BIN)/python -m benchmarks $(ARGS)

constraints: $(INSTALLED)  ## Pins what is installed now
	{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable \
		| grep -vE '^(torch|torchvision|triton|(nvidia|cuda)-.*)=='; } > constraints.new
	mv constraints.new constraints.txt

clean:  ## Removes caches and build leftovers; keeps the environment and training runs
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
