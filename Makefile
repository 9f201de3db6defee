# make demo   installs into .venv and segments the photos in examples/photos, offline
# make test   installs into .venv and runs the tests
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test lint bench clean

demo: $(VENV)/installed
	$(BIN)/maskrcnn predict examples/photos --out demo_out
	@echo "The pictures are in demo_out/, the masks in demo_out/results.json."

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# TORCHVISION_PYTHON is the interpreter of an environment of its own that has torchvision.
bench: $(VENV)/installed
	$(BIN)/python benchmarks/vs_torchvision.py --peer $(TORCHVISION_PYTHON)
	$(BIN)/python benchmarks/training_step.py --peer $(TORCHVISION_PYTHON)

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q -c constraints.txt -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) install -q -c constraints.txt -e ".[test,lint]"
	@touch $@

clean:
	rm -rf $(VENV) demo_out
