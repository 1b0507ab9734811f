# Two commands do everything on a fresh machine: `make reproduce` and `make test`.
# Both create .venv from requirements.lock and reuse it. Every path is relative, so a folder name may hold spaces.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PROFILE ?= demo
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install reproduce test check lint notebooks lab book lock clean distclean

help:  ## List the commands
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## Create .venv from requirements.lock (both commands below do it by themselves)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); sys.exit(0 if ok else "transkd_lite needs Python 3.11 to 3.13, but $(PYTHON) is %d.%d: run make PYTHON=python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $(STAMP)

reproduce: $(STAMP)  ## Run the course end to end on the embedded street scenes, print and save the report
	$(BIN)/python -m transkd_lite.cli reproduce $(PROFILE) --jobs $(JOBS)

test: $(STAMP)  ## Run everything that guards the project
	$(BIN)/python tests/run_layers.py

check: $(STAMP)  ## Style, types, and the quick tests of what has changed, in under a minute
	$(BIN)/python tests/run_layers.py check

lint: $(STAMP)  ## Check style and types
	$(BIN)/python tests/run_layers.py lint format types

notebooks: $(STAMP)  ## Run every notebook from its defaults and store the outputs in place
	$(BIN)/python tests/store_outputs.py

lab: $(STAMP)  ## Open the course in JupyterLab
	@mkdir -p .venv/share/jupyter/lab/settings
	@echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' > .venv/share/jupyter/lab/settings/overrides.json
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb

book: $(STAMP)  ## Render README and notebooks, with their stored outputs, into one static site
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c notebooks/book . build/book
	@echo "Open build/book/README.html"

lock: $(STAMP)  ## Resolve requirements.lock anew from pyproject.toml (needs uv)
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade --extra test --extra book pyproject.toml -o requirements.lock

clean:  ## Remove caches and what was built; the environment and the run folders stay
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## Remove the environment and all run folders too, after asking
	@printf 'Remove .venv and runs, with every trained network in it? [y/N] '; read answer; [ "$$answer" = y ]
	rm -rf .venv runs
