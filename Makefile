# `make demo` and `make test` are all the set-up: both make the virtual environment they need.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin

.PHONY: demo demo-quick test check docs slow bench dist clean

demo: $(VENV)/ready  ## Distil the embedded digits teacher into a one-step student (2 minutes)
	$(RUN)/ffd run digits.toml --directory runs/digits
	@echo "Look at runs/digits/samples.png"

demo-quick: $(VENV)/ready  ## The same in a few steps, to see that everything works
	$(RUN)/ffd run digits.toml --directory runs/digits-quick --restart --set training.steps=30

test: $(VENV)/ready  ## Run the tests
	$(RUN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

docs: $(VENV)/ready  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict

slow: $(VENV)/ready  ## Run the slow studies
	$(RUN)/python -m pytest -m slow

bench: $(VENV)/ready  ## Measure speed on this CPU, into runs/bench.md (10 minutes)
	$(RUN)/python benchmarks/speed/bench.py

check: $(VENV)/ready  ## Lint and types
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

dist: $(VENV)/ready  ## Build the wheel and the sdist into dist/; TAG=v1.2.3 must match the version
	@test -z "$(TAG)" || test "$(TAG)" = "v$$($(RUN)/hatchling version)" || \
		{ echo "tag $(TAG), but pyproject.toml has version $$($(RUN)/hatchling version)"; exit 1; }
	rm -rf dist
	$(RUN)/hatchling build

clean:
	rm -rf $(VENV) runs site

$(VENV)/ready: pyproject.toml constraints.txt
	@echo "installing ffcore into $(VENV): some minutes"
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
