# Each target is a few plain commands; the README says what they run, for people without make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# How many records `make bench-many` puts under one key.
RECORDS ?= 1000000

.PHONY: demo test check bench bench-files bench-many bench-upkeep soak fuzz docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    a swarm of 5 peers, a file, 2 peers killed, the file again (KEEP=1 leaves it running)"
	@echo "make test    the whole test suite"
	@echo "make check   formatter, linter, strict type checker"
	@echo "make bench   benchmarks beside stock kademlia and opendht, into benchmarks/RESULTS.md"
	@echo "make bench-files  files: beside libtorrent, many small ones, two at once, over an emulated link, beside TCP"
	@echo "make bench-many  a million records under one key beside opendht: in order, with loss, a third killed (RECORDS=N)"
	@echo "make bench-upkeep  what comparing two replicas costs, and how quickly a newcomer is filled"
	@echo "make soak    long fault runs;  make fuzz   long fuzz runs"

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/installed-bench: $(VENV)/installed-test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py $(if $(KEEP),--keep)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/installed-test
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy

bench: $(VENV)/installed-bench
	$(BIN)/python benchmarks/run.py

bench-files: $(VENV)/installed-bench
	$(BIN)/python -W ignore -m benchmarks.files
	$(BIN)/python -m benchmarks.crowds
	$(BIN)/python -m benchmarks.link --mib 1024
	$(BIN)/python -m benchmarks.link --sharing

bench-many: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.many_values --records $(RECORDS) --rivals
	$(BIN)/python -m benchmarks.many_values --records $(RECORDS) --rivals --loss 5
	$(BIN)/python -m benchmarks.many_values --records $(RECORDS) --rivals --kill-third
	$(BIN)/python -m benchmarks.watching --loss 5 --batch 20

bench-upkeep: $(VENV)/installed-test
	$(BIN)/python -m benchmarks.upkeep

soak: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --timeout 7200 -m soak --override-ini 'addopts=-q --strict-markers'

fuzz: $(VENV)/installed-test
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -n 2 --timeout 7200 -m fuzz

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

docs: $(VENV)/installed-test
	P2PKV_TESTS_REWRITE=1 $(BIN)/python -m pytest tests/test_docs.py -k help_pages
