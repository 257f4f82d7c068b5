PYTHON ?= python3
BIN := .venv/bin
TASK ?= liver
TASKS := liver lesion

.PHONY: test test-label test-nnunet bench demo known_task lint

# pip sees the pin of torch in every step, or a dependency might replace it by a CUDA build.
.venv: .venv/.made
.venv/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade -c constraints.txt -e '.[dev]'
	@touch $@

# MONAI Label needs an older numpy. It and two packages of its are installed without what they ask for, which would bring
# CUDA builds; constraints.txt pins torch here, too.
LABEL_BIN := .venv-label/bin
.venv-label: .venv-label/.made
.venv-label/.made: pyproject.toml constraints.txt requirements-label.txt
	$(PYTHON) -m venv .venv-label
	$(LABEL_BIN)/pip install -q -c constraints.txt -r requirements-label.txt -e '.[report]' pytest
	$(LABEL_BIN)/pip install -q --no-deps -c constraints.txt monailabel==0.8.5 pydicom-seg==0.4.1 torchvision==0.28.0
	@touch $@

# nnU-Net imports torchvision when it trains
NNUNET_BIN := .venv-nnunet/bin
.venv-nnunet: .venv-nnunet/.made
.venv-nnunet/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-nnunet
	$(NNUNET_BIN)/pip install -q -c constraints.txt -e '.[nnunet]' pytest
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

# The tests' networks are small, and their processes share the cores: more threads would wait for each other.
test: export OMP_NUM_THREADS = 1
test: lint
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --cov --cov-report=term
	$(BIN)/coverage report --include='metalr_monai/rates/*,metalr_monai/handlers/*' --fail-under=95 --format=total

# a real server on 127.0.0.1, about ten minutes
test-label: .venv-label
	$(LABEL_BIN)/python -m pytest -o addopts= -q tests/label

# against the real nnU-Net, about eight minutes
test-nnunet: .venv-nnunet
	$(NNUNET_BIN)/python -m pytest -o addopts= -q tests/nnunet

bench: .venv
	$(BIN)/python benchmarks/step_cost.py
