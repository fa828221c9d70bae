# make quickstart   create an environment, install, train on the packaged sample and reload through timm (needs Python >= 3.10)
# make test         all tests, including the examples in docstrings
# make zoo          sweep over every architecture (hours)
# make bench        measure speed on this CPU; writes output/bench/*.csv and plots (a few minutes; on a GPU: DEVICE=cuda)
# make study        run the study and robustness tests, and write the report (hours; on a GPU: PRESET=full DEVICE=cuda PARALLEL=12)
# make evidence     runs of the first half of the report: cpu-deep, cpu-growth-*, MixStyle (a day on two cores; can be resumed;
#                   on a GPU: gpu-deep, gpu-deep-long, gpu-all with DEVICE=cuda PARALLEL=12)
# make ablation     runs for choosing the settings, evaluated only on validation images (hours; can be resumed)
# make timm-tests   run timm's own model tests on the twins (long; downloads timm's sdist)
# make lint         ruff (format and check) and mypy
# make docs         build the documentation site in output/site, in a separate environment
# make dist         build wheel and sdist in dist/, in a separate environment
# make test-floor   run the tests with the lowest versions that pyproject.toml allows, in a separate environment
VENV ?= .venv
PYTHON ?= python3
FLOOR_PYTHON ?= python3.10
BIN := $(VENV)/bin
STAMP := $(VENV)/.timm-moex-installed
RUN := output/quickstart
PRESET ?= cpu-small
DEVICE ?= cpu
PARALLEL ?= 2
EVIDENCE_cpu := cpu-deep cpu-growth-250 cpu-growth-500 cpu-growth-1000 cpu-growth-5000 cpu-deep-long
EVIDENCE_cuda := gpu-deep gpu-deep-long gpu-all
BENCH_cuda := compile presets
STEP_cuda := convnext_tiny vit_small_patch16_224 --dtype bfloat16 --layout channels_last
# Number of test processes; each uses one thread.
WORKERS ?= 2
# Otherwise idle OpenMP threads spin, which is ten times slower if another process occupies one of two cores.
export OMP_WAIT_POLICY ?= passive

.PHONY: quickstart test zoo bench study evidence ablation timm-tests lint docs dist test-floor

$(STAMP): pyproject.toml timm_moex/version.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "timm_moex needs Python >= 3.10; make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[plots,test]'
	touch $@

quickstart: $(STAMP)
	rm -rf $(RUN)
	$(BIN)/timm-moex train quickstart --in-memory --data-dir "$$($(BIN)/timm-moex sample)" --output $(RUN)
	$(BIN)/timm-moex eval $(RUN)/hub --dataset torch/fashion_mnist --data-dir "$$($(BIN)/timm-moex sample)" --min-top1 80
	$(BIN)/timm-moex predict $(RUN)/hub --dataset torch/fashion_mnist --data-dir "$$($(BIN)/timm-moex sample)" \
		--output $(RUN)/predictions.png

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

zoo: $(STAMP)
	$(BIN)/python -m pytest -m zoo

bench: $(STAMP)
	for b in op memory scaling $(BENCH_$(DEVICE)); do \
		$(BIN)/python -m benchmarks.speed.$$b --device $(DEVICE) --seconds 1 --output output/bench || exit 1; done
	$(BIN)/python -m benchmarks.speed.step --device $(DEVICE) --seconds 1 --models resnet50 resnet20_cifar $(STEP_$(DEVICE)) \
		--output output/bench
	$(BIN)/python -m benchmarks.speed.plots --output output/bench

study: $(STAMP)
	$(BIN)/python -m benchmarks.study run --preset $(PRESET) --device $(DEVICE) --parallel $(PARALLEL) --threads 1
	$(BIN)/python -m benchmarks.study.robustness --device $(DEVICE) --threads 1
	$(BIN)/python -m benchmarks.study.report --write
	$(BIN)/python -m benchmarks.study.report_plots

evidence: $(STAMP)
	for preset in $(EVIDENCE_$(DEVICE)); do \
		$(BIN)/python -m benchmarks.study run --preset $$preset --device $(DEVICE) --parallel $(PARALLEL) --threads 1 || exit 1; done
	$(BIN)/python -m pip install resvg-py==0.5.0
	test -e output/emoji/initial.safetensors || $(BIN)/python -m benchmarks.study.emoji --output output/emoji
	$(BIN)/python -m benchmarks.study.domain_shift --mixstyle --device $(DEVICE) --parallel $(PARALLEL) --threads 1
	$(BIN)/python -m benchmarks.study.robustness --device $(DEVICE) --threads 1
	$(BIN)/python -m benchmarks.study.report --write
	$(BIN)/python -m benchmarks.study.report_plots

ablation: $(STAMP)
	$(BIN)/python -m benchmarks.study ablate --preset $(PRESET) --device $(DEVICE) --parallel $(PARALLEL) --threads 1
	$(BIN)/python -m benchmarks.study.report --write
	$(BIN)/python -m benchmarks.study.report_plots

timm-tests: $(STAMP)
	$(BIN)/python tests/zoo/timm_tests.py

lint: $(STAMP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

docs:
	test -x $(VENV)-docs/bin/mkdocs || { $(PYTHON) -m venv $(VENV)-docs && \
		$(VENV)-docs/bin/python -m pip install mkdocs-material 'mkdocstrings[python]'; }
	$(VENV)-docs/bin/mkdocs build --strict --site-dir output/site

dist:
	test -x $(VENV)-dist/bin/pyproject-build || { $(PYTHON) -m venv $(VENV)-dist && $(VENV)-dist/bin/python -m pip install build; }
	$(VENV)-dist/bin/python -m build --outdir dist

$(VENV)-floor/.timm-moex-installed: pyproject.toml timm_moex/version.py tests/floor.txt
	$(FLOOR_PYTHON) -m venv $(VENV)-floor
	$(VENV)-floor/bin/python -m pip install --constraint tests/floor.txt -e '.[plots,test]'
	touch $@

test-floor: $(VENV)-floor/.timm-moex-installed
	$(VENV)-floor/bin/python -m pytest --numprocesses $(WORKERS) --dist loadfile
