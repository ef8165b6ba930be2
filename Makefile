PYTHON ?= python3
BIN = .venv/bin
# A process for each core with one thread each, as most tests are small; a file's tests share what one of them trains.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# `make demo CPU=1`: torch's own builds without CUDA first, from torch's own index; with them the install is 1.5 GB, not 6.3.
CPU_INDEX = https://download.pytorch.org/whl/cpu
ifdef CPU
.venv/installed: .venv/torch-cpu
endif

.PHONY: demo test test-browser check format audit licences resolve docs
demo: .venv/installed
	$(BIN)/python -m tasks.detection fit

test: .venv/installed-dev
	$(PYTEST) -m "not browser"

# The page of `page` in a real Chromium: Debian's packages chromium and chromium-driver, and onnxruntime-web from npm, once.
test-browser: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m browser tests/browser

check: .venv/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m "not slow and not browser"

# Known vulnerabilities of what the base install pulls in, in the versions installed here; a registry is asked for them.
audit: licences
	$(BIN)/python .ci/licences.py --pins > .venv/pins.txt
	$(BIN)/python -m pip_audit --disable-pip --no-deps --progress-spinner off --requirement .venv/pins.txt

licences: .venv/installed-dev
	$(BIN)/python .ci/licences.py

# For which versions of Python everything is there as wheels, as a table; a registry is asked.
resolve: .venv/installed-dev
	$(BIN)/python .ci/resolve.py

# The pages of docs/ and of the Python interface into site/, without network; any warning is an error.
docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: .venv/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/bin/python:
	$(PYTHON) -m venv .venv

# The index is asked first: without its answer pip could take the builds with CUDA from elsewhere.
.venv/torch-cpu: | .venv/bin/python
	@$(BIN)/python -c 'import urllib.request as u; u.urlopen("$(CPU_INDEX)/torch/", timeout=20)' 2> .venv/torch-cpu.log || \
	    { echo "$(CPU_INDEX) does not answer (.venv/torch-cpu.log), so torch without CUDA cannot be had from it;" \
	    "make demo installs PyPI's torch, 6.3 GB in all, which runs on CPUs too."; exit 1; }
	$(BIN)/python -m pip install --index-url $(CPU_INDEX) torch torchvision
	touch $@

.venv/installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --editable .
	touch $@

.venv/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@
