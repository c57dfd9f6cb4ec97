# make demo | test | lint | bench; each makes .venv when it is missing or older than its
# requirement files. ACCEL=cuda12|cuda13|tpu chooses the jax extra; default: CPU.
PYTHON ?= python3
ACCEL ?=
TIER ?= tiny
JAX = $(if $(ACCEL),jax[$(ACCEL)],jax)
PIP = .venv/bin/python -m pip install -q --disable-pip-version-check
RUN = .venv/installed-run-$(ACCEL)
DEV = .venv/installed-dev-$(ACCEL)
OUT = runs/$(if $(filter tiny,$(TIER)),demo,demo-$(TIER))

.PHONY: demo test lint bench
demo: $(RUN)
	.venv/bin/python run.py compare experiments/rnn_vs_attention.py --tier=$(TIER) --out=$(OUT)

test: $(DEV)
	OPENBLAS_NUM_THREADS=1 .venv/bin/python -m pytest -n 2

lint: $(DEV)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

bench: $(DEV)
	OPENBLAS_NUM_THREADS=1 .venv/bin/python -m benchmarks $(if $(BENCH_OUT),--out=$(BENCH_OUT))

$(RUN): requirements.txt
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	$(PIP) -r requirements.txt "$(JAX)"
	touch $@

$(DEV): requirements-dev.txt $(RUN)
	$(PIP) -r requirements-dev.txt
	touch $@
