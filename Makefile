# Two commands do everything: `make demo` and `make test`. Each creates .venv first if it is missing.
PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

.PHONY: demo test sweep check docs bench-peers clean

demo: ## fit a neural ODE to Robertson's problem and draw the result
	$(PYTHON) environment/bootstrap.py
	rm -rf runs/demo
	.venv/bin/stiffml fit robertson --out runs/demo

test: ## run the tests
	$(PYTHON) environment/bootstrap.py --extras test
	.venv/bin/python -m pytest -n 2 -m "not sweep and not alone"
	.venv/bin/python -m pytest -m alone

sweep: ## run the tests that take long, and record the result
	$(PYTHON) environment/bootstrap.py --extras test
	.venv/bin/python -m pytest -n 2 -m sweep -q --durations=25 --disable-warnings | tee tests/sweep.txt

check: ## run the linters and the type checker
	$(PYTHON) environment/bootstrap.py --extras test,develop
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: ## build the site in docs/_build/html; the lessons are run for it
	$(PYTHON) environment/bootstrap.py --extras test,docs
	.venv/bin/python -m sphinx -W -n -b html docs docs/_build/html

bench-peers: ## compare with other tools, which get an environment of their own, and record the result
	$(PYTHON) environment/bootstrap.py
	$(PYTHON) benchmarks/peers/environment.py
	.venv/bin/python benchmarks/peers/brusselator.py
	.venv/bin/python benchmarks/peers/small/compare.py
	.venv/bin/python benchmarks/peers/small/ensembles.py

clean: ## remove the environment and the runs
	rm -rf .venv .venv-peers runs docs/_build docs/generated docs/learn
