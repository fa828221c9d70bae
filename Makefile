# make quickstart   environment, install, train on the packaged sample, reload through timm (needs only Python >= 3.10)
# make test         the tests
# make zoo          sweeps over every architecture (long)
# make lint         ruff
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.timm-moex-installed
RUN := output/quickstart

.PHONY: quickstart test zoo lint

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "timm_moex needs Python >= 3.10; make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[plots,test]'
	touch $@

quickstart: $(STAMP)
	rm -rf $(RUN)
	$(BIN)/timm-moex train quickstart --in-memory --data-dir "$$($(BIN)/timm-moex sample)" --output $(RUN)
	$(BIN)/timm-moex eval $(RUN)/hub --dataset torch/fashion_mnist --data-dir "$$($(BIN)/timm-moex sample)" --at-least 80
	$(BIN)/timm-moex show $(RUN)/hub --dataset torch/fashion_mnist --data-dir "$$($(BIN)/timm-moex sample)" \
		--output $(RUN)/predictions.png

test: $(STAMP)
	$(BIN)/python -m pytest

zoo: $(STAMP)
	$(BIN)/python -m pytest -m zoo

lint: $(STAMP)
	$(BIN)/ruff check
