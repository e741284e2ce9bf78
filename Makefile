# make train: a first network, with all set-up. make test: every check the tests know.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: install train test test-fast campaign lint docs package format bench clean
.DELETE_ON_ERROR:

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else \
		f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: $(STAMP)
	$(BIN)/recursivemix fit

# Each of the three processes takes a third in order; one that is done takes tests from the others. Three keep
# two cores busy: many tests wait for a process that they have started.
test: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist worksteal

# The library, data and reports. Left out: whatever trains a run, starts a process, compiles
# or opens a browser.
test-fast: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" tests/mixing tests/models tests/data tests/report \
		tests/test_package.py tests/test_docs.py

# Kills, full disks and random malformed input, many more tries than in make test; CAMPAIGN_SEED=N for others.
# Its record is written when all has held.
campaign: $(STAMP)
	rm -rf build/campaign && mkdir -p build/campaign && touch build/campaign/started
	CAMPAIGN_TRIES=$${CAMPAIGN_TRIES:-1000} CAMPAIGN_RECORD=$(CURDIR)/build/campaign \
		$(BIN)/python -m pytest -n 2 --dist worksteal -vv --durations 10 tests/campaign
	$(BIN)/python tests/campaign/record.py build/campaign --out results/campaign.json

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)
	$(BIN)/mkdocs build --strict
	for folder in results/compare/* results/transfer/* results/where-it-pays/confirm; do \
		$(BIN)/recursivemix report $$folder > /dev/null && mkdir -p build/site/$$folder && \
		mv $$folder/page.html build/site/$$folder/page.html || exit 1; \
	done

# An sdist and a wheel in dist/, as they would be published.
package: $(STAMP)
	rm -rf dist
	$(BIN)/pyproject-build --no-isolation
	$(BIN)/twine check --strict dist/*

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	$(BIN)/python benchmarks/mixing.py --out results/mixing.json
	$(BIN)/python benchmarks/step.py --out results/step.json
	$(BIN)/python benchmarks/scaling.py --out results/scaling.json
	$(BIN)/python docs/make_pictures.py scaling
	$(BIN)/python benchmarks/training.py --out results/training.json
	$(BIN)/python benchmarks/training.py --large --out results/training-224.json
	$(BIN)/python benchmarks/images.py --out results/images.json
	$(BIN)/python benchmarks/detection.py --out results/detection.json
	$(BIN)/python benchmarks/average_precision.py --out results/average-precision.json
	$(BIN)/python benchmarks/startup.py --out results/startup.json

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
