# Two commands do everything: `make demo` and `make test`. Each creates .venv first if it is missing.
PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

.PHONY: demo test sweep sweep-petsc wheels check docs bench bench-peers clean

demo: ## fit a neural ODE to Robertson's problem and draw the result; SEED=3 for other weights
	$(PYTHON) environment/bootstrap.py --extras compile
	rm -rf runs/demo
	.venv/bin/stiffml fit robertson --out runs/demo $(if $(SEED),--seed $(SEED))

test: ## run the tests
	$(PYTHON) environment/bootstrap.py --extras test
	.venv/bin/python -m pytest -n 2 -m "not sweep and not alone"
	.venv/bin/python -m pytest -m "alone and not sweep"

sweep: ## run the tests that take long, and record the result
	$(PYTHON) environment/bootstrap.py --extras test
	.venv/bin/python -m pytest -n 2 -m sweep -q --durations=25 --disable-warnings | tee tests/sweep.txt

# Rooms in which a version of PETSc can make a difference.
PETSC_TESTS = tests/methods tests/petsc tests/run tests/system tests/linear tests/gradients tests/compiled \
	tests/native tests/all_at_once tests/distributed tests/problems

sweep-petsc: ## run the tests with the oldest and the newest PETSc, each in an environment of its own, and record it
	for version in 3.24.6 3.26.1; do \
		$(PYTHON) environment/bootstrap.py --extras test --petsc $$version --venv .venv-petsc-$$version && \
		(echo "PETSc $$version" && .venv-petsc-$$version/bin/python -m pytest -n 2 -m "not sweep and not alone" -q \
			--disable-warnings $(PETSC_TESTS)) | tee tests/petsc-$$version.txt || exit 1; \
	done

wheels: ## leave wheels of PETSc and petsc4py in wheels/, for other machines like this one
	$(PYTHON) environment/bootstrap.py --wheels wheels

check: ## run the linters and the type checker
	$(PYTHON) environment/bootstrap.py --extras test,develop
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: ## build the site in docs/_build/html; the lessons are run for it
	$(PYTHON) environment/bootstrap.py --extras test,docs
	.venv/bin/python -m sphinx -W -n -b html docs docs/_build/html

bench: ## time stiffml's own paths, and record the results
	$(PYTHON) environment/bootstrap.py
	.venv/bin/python benchmarks/eager.py
	.venv/bin/python benchmarks/all_at_once.py
	.venv/bin/python benchmarks/compiled_steps.py
	.venv/bin/python benchmarks/ensembles.py
	.venv/bin/python benchmarks/eager_gradients.py

bench-peers: ## compare with other tools, which get an environment of their own, and record the result
	$(PYTHON) environment/bootstrap.py --extras chemistry
	$(PYTHON) benchmarks/peers/environment.py
	.venv/bin/python benchmarks/ignition.py
	.venv/bin/python benchmarks/peers/brusselator.py
	.venv/bin/python benchmarks/peers/small/compare.py
	.venv/bin/python benchmarks/peers/small/compare.py --functions eager
	.venv/bin/python benchmarks/peers/small/ensembles.py
	.venv/bin/python benchmarks/peers/explicit/compare.py

clean: ## remove the environment and the runs
	rm -rf .venv .venv-peers .venv-petsc-* runs docs/_build docs/generated docs/learn
