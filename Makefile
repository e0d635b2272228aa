# make        set up .venv and run the whole workflow on the embedded phantoms
# make test   set up .venv and pass the tests
# make bench  speed, as ratios against named baselines
# make reproducibility  what a change re-runs, and the DVC round trip, printed as a table
# make demo-page        the tables and pictures of docs/ from the last run, after `snakemake evidence`
# make wheel  dist/prrmse-*.whl, for use without a clone
# make docs   the site of docs/, in site/; a warning is an error
# make lint   format, lint, types, and what may import what
SHELL := /bin/bash
PYTHON ?= python3
CORES ?= $(shell nproc)
VENV := .venv
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: all test bench reproducibility demo-page docs lint format lock wheel clean

all: $(VENV)/.complete
	$(RUN) snakemake --cores $(CORES)
	@echo "done: open results/report.html"

# Three workers for two cores: the tests of the cluster wait for most of their time.
test: $(VENV)/.complete
	$(RUN) python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

bench: $(VENV)/.complete
	$(RUN) python bench/run.py

reproducibility: $(VENV)/.complete
	$(RUN) python bench/reproducibility.py

demo-page: $(VENV)/.complete
	$(RUN) python bench/demo_page.py

docs: $(VENV)/.complete
	$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

lint: $(VENV)/.complete
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) snakefmt --check Snakefile workflow
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) snakemake --lint

format: $(VENV)/.complete
	$(RUN) ruff format .
	$(RUN) ruff check --fix .
	$(RUN) snakefmt Snakefile workflow

# Everything by hash; uv, itself by hash, only because it installs 5 GB in seconds. It leaves out what pip does: without
# compiled files every process compiles what it imports, where PYTHONDONTWRITEBYTECODE is set or the files are another's.
$(VENV)/.complete: requirements.txt requirements-uv.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --compile-bytecode --require-hashes -r requirements.txt
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation -e .
	touch $@

# After a change of the dependencies in pyproject.toml.
lock:
	$(VENV)/bin/uv pip compile --quiet --python-version 3.11 --extra workflow --extra networks --extra images --extra docs --extra dev --generate-hashes \
	  --no-emit-index-url --custom-compile-command "make lock" pyproject.toml -o requirements.txt

# The last commit as a wheel; the same bytes in every checkout, whatever the times and modes of its files.
wheel: $(VENV)/.complete
	rm -rf build dist && mkdir build
	umask 022 && git -c tar.umask=0022 archive HEAD pyproject.toml README.md LICENSE src | tar -x -C build
	umask 022 && export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) && $(RUN) python -m pip wheel --quiet --no-deps \
	  --no-build-isolation --wheel-dir dist ./build
	rm -rf build

# Everything that the workflow made; the environment stays.
clean:
	rm -rf results data/phantom data/processed logs benchmarks .snakemake
