# Two commands set everything up by themselves: `make demo` and `make test`. They need Python >= 3.10, a C++20 compiler, make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(wildcard cpp/*) CMakeLists.txt pyproject.toml

.PHONY: demo test torture bench lint wheel clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.demo  ## build the engine and search the Python standard library with it
	$(BIN)/chamfer demo

test: $(VENV)/.test  ## every test; what a machine lacks (qemu, torch, shared data) is skipped by name
	$(BIN)/pytest

torture: $(VENV)/.test  ## kills, failing disks, damaged files, a soak, fuzzing; PARTS="soak --count 3600" for one, longer
	$(BIN)/pip install --quiet atheris || echo "atheris could not be installed: nothing will be fuzzed"
	cd tests && ../$(BIN)/python -m torture $(PARTS)

bench: $(VENV)/.test  ## kernels beside their peers; for search: $(BIN)/python -m bench search DATA
	$(BIN)/pip install --quiet maxsim-cpu numkong usearch muvera-python fastembed
	$(BIN)/python -m bench kernels --peers

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror cpp/*.cpp cpp/*.hpp cpp/*.inl cpp/tests/*.cpp cpp/tests/*.hpp
	$(BIN)/codespell
	$(BIN)/mypy

wheel: $(VENV)/.lint  ## dist/*.whl, checked: nothing bundled, and it imports and works in a clean environment
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python tools/check_wheel.py dist/*.whl

$(VENV)/.pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { echo "chamfer needs Python 3.10 or newer; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	@touch $@

# Editable: Python changes are seen at once, C++ changes build again through SOURCES.
$(VENV)/.demo: $(VENV)/.pip $(SOURCES)
	@echo "building chamfer (about a minute the first time) ..."
	$(BIN)/pip install --quiet --editable ".[demo]"
	@touch $@

$(VENV)/.test: $(VENV)/.pip $(SOURCES)
	@echo "building chamfer with its test tools (about a minute the first time) ..."
	$(BIN)/pip install --quiet --editable ".[demo]" --group test -C cmake.define.CHAMFER_WERROR=ON
	@touch $@ $(VENV)/.demo

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/pip install --quiet --group lint
	@touch $@

clean:
	rm -rf $(VENV) build dist
