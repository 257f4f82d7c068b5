PYTHON ?= python3
BIN := .venv/bin
TASK ?= liver
TASKS := liver lesion

.PHONY: test bench demo known_task lint

# pip sees the pin of torch in every step, or a dependency might replace it by a CUDA build.
.venv: .venv/.made
.venv/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade -c constraints.txt -e '.[dev]'
	@touch $@

demo: known_task .venv
	rm -rf demo_output
	$(BIN)/python examples/demo.py demo_output --task $(TASK)

# before an environment is made or an old output removed
known_task:
	$(if $(filter 1,$(words $(filter $(TASKS),$(TASK)))),@:,$(error TASK is '$(TASK)'; expected one of: $(TASKS)))

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest --cov --cov-report=term
	$(BIN)/coverage report --include='metalr_monai/rates/*,metalr_monai/handlers/*' --fail-under=95 --format=total

bench: .venv
	$(BIN)/python benchmarks/step_cost.py
