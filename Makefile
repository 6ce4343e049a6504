# Each target sets up what it needs; a second run installs nothing and needs no network.
PYTHON ?= python3
PORT ?= 8888
JUPYTER_FLAGS ?=
BIN := .venv/bin
LINT := $(BIN)/ruff check . && $(BIN)/ruff format --check .
ROOT_FLAG := $(shell [ "$$(id -u)" = 0 ] && echo --allow-root)

.PHONY: course setup test quick lessons zoo bench evidence clean

course: .venv/course
	$(BIN)/jupyter lab --ip=127.0.0.1 --port=$(PORT) --ServerApp.root_dir="$(CURDIR)" \
		--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ROOT_FLAG) $(JUPYTER_FLAGS)

setup: .venv/course

# Everything in two processes of one thread each; the seconds of each part at the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test: .venv/test
	@begun=$$(date +%s); part() { now=$$(date +%s); times="$$times $$1 $$((now - begun)) s,"; begun=$$now; }; \
	set -e; $(LINT); part lint; \
	set -x; $(PYTEST) --doctest-modules --dist worksteal tests minieff; { set +x; } 2>/dev/null; part "tests and examples"; \
	set -x; $(PYTEST) --nbval --nbval-current-env --nbval-sanitize-with notebooks/sanitize.cfg \
		--nbval-cell-timeout 120 --dist loadscope notebooks exercises/solutions; { set +x; } 2>/dev/null; \
	part notebooks; echo "$$times all green" | sed "s/^ //"

# For people at work, under a minute: without pairs, trained models and peers, which `make test` has
quick: .venv/test
	$(LINT)
	$(PYTEST) --dist worksteal -k "not pretrained and not base_model and not scikit and not in_pairs and not on_top" \
		tests/test_laws.py tests/test_layout.py tests/techniques

lessons: .venv/test
	MINIEFF_RESULTS="$(CURDIR)/results" OMP_NUM_THREADS=1 $(BIN)/python notebooks/build.py $(FORCE)
	$(BIN)/python notebooks/summary.py

zoo: .venv/course
	$(BIN)/python -m minieff train zoo/*.toml zoo/*/*.toml --resume --workers 2

bench: .venv/test
	MINIEFF_RESULTS="$(CURDIR)/results" $(BIN)/python benchmarks/bench_transformer.py
	MINIEFF_RESULTS="$(CURDIR)/results" OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_layerdrop.py
	MINIEFF_RESULTS="$(CURDIR)/results" OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_dynamic_conv.py
	MINIEFF_RESULTS="$(CURDIR)/results" $(BIN)/python benchmarks/bench_quant.py
	MINIEFF_RESULTS="$(CURDIR)/results" $(BIN)/python benchmarks/bench_sparse_weights.py
	MINIEFF_RESULTS="$(CURDIR)/results" OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_decoding.py
	MINIEFF_RESULTS="$(CURDIR)/results" OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_entmax.py
	MINIEFF_RESULTS="$(CURDIR)/results" OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_sparse_attention.py
	$(BIN)/python benchmarks/table.py

# What lessons show of models whose weights do not ship: after `make zoo`, some hours
evidence: export MINIEFF_RESULTS = $(CURDIR)/results
evidence: export OMP_NUM_THREADS = 1
evidence: .venv/test
	$(BIN)/torchrun --nproc-per-node 2 evidence/layerdrop/ranks.py
	for what in layerdrop/depths layerdrop/few layerdrop/eras layerdrop/minilm scalar_quant/grids \
		scalar_quant/table scalar_quant/minilm product_quant/codebooks product_quant/small field/models; do \
		$(BIN)/python evidence/$$what.py || exit 1; done

clean:
	rm -rf .venv

# A stamp is newer than what it was made from once the installation went through.
.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || \
		{ echo "$(PYTHON) is not Python 3.11 to 3.14: install one, or name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/course: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[course,pronunciations]'
	@touch $@

.venv/test: .venv/course
	$(BIN)/python -m pip install -c constraints.txt -e '.[course,pronunciations,verbs,pretrained,dev]'
	@touch $@
