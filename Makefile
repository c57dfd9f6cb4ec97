# make demo | reproduce | doctor | test | slow | lint | bench; each makes .venv when it is missing or
# older than its requirement files. ACCEL chooses the jax extra, one of ACCELS; default: CPU.
PYTHON ?= python3
ACCEL ?=
ACCELS = cuda12 cuda13 rocm7-local tpu
ifneq ($(ACCEL),$(firstword $(filter $(ACCELS),$(ACCEL))))
$(error ACCEL=$(ACCEL): take one of $(ACCELS), or leave it out for the CPU)
endif
TIER ?= tiny
JAX = $(if $(ACCEL),jax[$(ACCEL)],jax)
PIP = .venv/bin/python -m pip install -q --disable-pip-version-check
RUN = .venv/installed-run-$(ACCEL)
DEV = .venv/installed-dev-$(ACCEL)
OUT = runs/$(if $(filter tiny,$(TIER)),demo,demo-$(TIER))

.PHONY: demo reproduce doctor test slow lint bench
demo: $(RUN)
	.venv/bin/python run.py compare experiments/rnn_vs_attention.py --tier=$(TIER) --out=$(OUT)

reproduce: $(RUN)
	.venv/bin/python run.py reproduce --tier=$(TIER)

doctor: $(RUN)
	.venv/bin/python run.py doctor

test: $(DEV)
	OPENBLAS_NUM_THREADS=1 .venv/bin/python -m pytest -n 2

slow: $(DEV)
	OPENBLAS_NUM_THREADS=1 .venv/bin/python -m pytest -m slow -s

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
