# Everything runs in a virtual environment that make sets up by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-image lint kafka docs manifests clean
.DEFAULT_GOAL := demo

# Installed again only when pyproject.toml or constraints.txt changed. Byte code is made when a module is first used: to
# make all of it takes a minute.
# TORCH_INDEX_URL, if set, is where pip finds torch, and torch alone.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_INDEX_URL),$(BIN)/pip install --quiet --no-deps --index-url "$(TORCH_INDEX_URL)" "$$(grep '^torch==' constraints.txt)")
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/stream-ad demo

# Three processes for two cores: many tests wait for a broker. More threads in each would only wait for one another.
test: $(INSTALLED) lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist loadgroup

# The image, built from deploy/Dockerfile and run as a cluster runs it. As root it installs buildah and podman where
# there is no Docker.
test-image: $(INSTALLED)
	$(BIN)/pytest -s --timeout 1800 tests/image/checks.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

kafka: $(INSTALLED)
	$(BIN)/python -m tests.kafka_broker

# The parts of docs/ that are made from the code.
docs: $(INSTALLED)
	$(BIN)/python -m docs.generate

# deploy/kubernetes, and the chart's copies of rules and dashboards.
manifests: $(INSTALLED)
	$(BIN)/python -m tests.manifests

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
