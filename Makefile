# make demo   the whole road on simulated recordings, ends with demo/report.html
# make test   the tests
# make check  lint, types and tests, as continuous integration runs them
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
# another interpreter makes the environment anew
STAMP = $(VENV)/installed-with-$(notdir $(PYTHON))

.PHONY: demo test check lint types clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cluster,dev,formats,onnx]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/berger demo --out demo

test: $(STAMP)
	$(BIN)/pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) demo
