PYTHON ?= python3
BIN = .venv/bin
# A process for each core with one thread each, as most tests are small; a file's tests share what one of them trains.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: demo test check format audit licences
demo: .venv/installed
	$(BIN)/python -m tasks.detection fit

test: .venv/installed-dev
	$(PYTEST)

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow"

# Known vulnerabilities of what the base install pulls in, in the versions installed here; a registry is asked for them.
audit: licences
	$(BIN)/python .ci/licences.py --pins > .venv/pins.txt
	$(BIN)/python -m pip_audit --disable-pip --no-deps --progress-spinner off --requirement .venv/pins.txt

licences: .venv/installed-dev
	$(BIN)/python .ci/licences.py

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --editable .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@
