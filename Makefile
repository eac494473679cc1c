# make demo and make test are all the set-up there is. PYTHON names the interpreter (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all test-site screenshots fuzz test-kill lint format bench cards site tour clean

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Condensery needs Python 3.11 or newer, and $(PYTHON) isn't; try make PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: about 5.7 GB with torch's CUDA libraries, about 90 seconds"
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: .venv/installed
	$(BIN)/condensery demo

test: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS) -q -m "not slow and not browser"

test-all: .venv/installed
	$(BIN)/python -m pytest -n $(WORKERS) -q

# The built site in a real Chromium: search, keyboard, phone, contrast, links. About five minutes on two cores.
test-site: .venv/installed .venv/chromium
	CONDENSERY_BROWSER=required $(BIN)/python -m pytest -n $(WORKERS) -q -m browser tests/catalogue/site

.venv/chromium: .venv/installed
	@command -v chromium > /dev/null || apt-get install -y chromium || { echo "error: this needs Debian's chromium: apt-get install chromium" >&2; exit 2; }
	$(BIN)/python -c 'import axe_playwright_python, playwright' 2> /dev/null || $(BIN)/python -m pip install --disable-pip-version-check -e ".[site-test]"
	@touch $@

# Pictures of four of the site's pages, for the README.
screenshots: .venv/installed .venv/chromium
	$(BIN)/python -m condensery_catalogue.site.screenshots

# Damage to everything that is read, and runs killed at any time: about a quarter of an hour each on two cores.
fuzz: .venv/installed
	PYTHONPATH=. $(BIN)/python tests/fuzz/run.py --cases $(or $(CASES),10000) --seed $(or $(SEED),0) --jobs $(WORKERS)

test-kill: .venv/installed
	PYTHONPATH=. $(BIN)/python tests/kill/run.py --random $(or $(KILLS),200) --aimed 20 --seed $(or $(SEED),0) --jobs $(WORKERS)

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m condensery_catalogue.readme --check
	$(BIN)/python -m condensery_catalogue.rejudge --check
	$(BIN)/python -m condensery_catalogue.results_table --check
	$(BIN)/python -m condensery_catalogue.claims_list --check
	$(BIN)/python -m condensery_catalogue.widths_table --check
	$(BIN)/python -m condensery_catalogue.distillation_map --check
	$(BIN)/python -m condensery_catalogue.matrix.page --check

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# What is made from cards, recipes and stored figures, and kept in git: tables, and the verdicts in stored results.
cards: .venv/installed
	$(BIN)/python -m condensery_catalogue.readme
	$(BIN)/python -m condensery_catalogue.rejudge
	$(BIN)/python -m condensery_catalogue.results_table
	$(BIN)/python -m condensery_catalogue.claims_list
	$(BIN)/python -m condensery_catalogue.widths_table
	$(BIN)/python -m condensery_catalogue.distillation_map
	$(BIN)/python -m condensery_catalogue.matrix.page

# The catalogue as a web site: a page for each method and each stored result; git doesn't keep them.
site: .venv/installed
	@rm -rf build/site
	$(BIN)/condensery site build --out build/site

# The ten most used commands with what they print, for docs/tour.md: about two minutes.
tour: .venv/installed
	$(BIN)/python -m condensery_catalogue.tour

# Each figure beside what it is compared with, in runs/bench-*.json too: about a minute or two a script.
BENCHMARKS := run desk memory codecs artifacts quantized zoo suite starting listing distilling

bench: .venv/installed
	@for name in $(BENCHMARKS); do $(BIN)/python tests/benchmarks/$$name.py || exit 1; done

# What can be made again in minutes; runs/ stays.
clean:
	rm -rf .venv build dist runs/demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
