# make demo   the whole road on simulated recordings, ends with demo/report.html
# make test   the tests
# make test-braindecode   those of braindecode's networks, in an environment of their own (5.5 GB)
# make check  lint, types and tests, as continuous integration runs them
PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
# another interpreter makes the environment anew
STAMP = $(VENV)/installed-with-$(notdir $(PYTHON))

BRAINDECODE = .venv-braindecode
BRAINDECODE_STAMP = $(BRAINDECODE)/installed-with-$(notdir $(PYTHON))

.PHONY: demo test test-braindecode check lint types clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cluster,dev,formats,onnx,peft,tensorboard]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/berger demo --out demo

# two at a time, the tests of a file one after the other, which share what is slow to make
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

$(BRAINDECODE_STAMP): pyproject.toml constraints-braindecode.txt
	$(PYTHON) -m venv --clear $(BRAINDECODE)
	$(BRAINDECODE)/bin/python -m pip install --quiet --upgrade pip
	$(BRAINDECODE)/bin/python -m pip install --quiet --constraint constraints-braindecode.txt \
		--editable '.[braindecode,dev]'
	touch $(BRAINDECODE_STAMP)

test-braindecode: $(BRAINDECODE_STAMP)
	$(BRAINDECODE)/bin/python -m pytest tests/evaluation/test_networks.py tests/evaluation/test_published_models.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

check: lint types test

clean:
	rm -rf $(VENV) $(BRAINDECODE) demo
