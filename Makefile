# On a fresh machine, python3 (3.11 or later) and make are enough.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
WORKDIR ?= out/tiny
PY := .venv/bin/python

# One dot a package: pip is silent under -q and prints pages without it.
define install
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
  "mgrd_jax needs Python 3.11 or later: make PYTHON=python3.12 ...")'
@$(PYTHON) -m venv .venv
@printf 'installing mgrd_jax$(1) into .venv (one to four minutes) '
@if ! $(PY) -m pip install --disable-pip-version-check --progress-bar=off \
  -e '.$(1)' 2>&1 | tee .venv/install.log | while IFS= read -r line; do \
  case "$$line" in Collecting*|Installing*) printf '.';; esac; done; then \
  echo ' failed:'; tail -n 5 .venv/install.log | cut -c -200; exit 1; fi
@echo ' done'
endef

.PHONY: help venv test parity parity-data fit bench tfio tfio-test tiny \
  ask-test soak lint clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 16

venv: .venv/.dev  ## .venv with everything that tests and notebooks need

.venv/.dev: setup.py
	$(call install,[tiny$(comma)dev])
	@touch .venv/.tiny $@

# Any build of torch serves, one for CPUs is the smallest: where pip's index has
# none, PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS names one that has.
.venv/.parity: setup.py
	$(call install,[tiny$(comma)dev$(comma)parity])
	@touch .venv/.tiny .venv/.dev $@

# The recipe alone needs no test tools; an environment for tests serves as well.
.venv/.tiny: setup.py
	$(call install,[tiny])
	@touch $@

comma := ,

test: venv  ## the tests that need no accelerator
	JAX_PLATFORMS=cpu $(PY) -m pytest tests \
	  -m "not slow and not gpu and not tpu and not tfio" \
	  --jaxtyping-packages=mgrd_jax,beartype.beartype -q --ignore=tests/parity \
	  -n 2 --dist loadgroup --no-loadscope-reorder

parity: .venv/.parity  ## our models beside transformers' and torch's own classes
	JAX_PLATFORMS=cpu $(PY) -m pytest tests/parity -m parity -q

parity-data: .venv/.parity  ## what those classes give, into tests/data/parity
	JAX_PLATFORMS=cpu $(PY) -m tests.parity.generate

# The wheel of libtpu holds the compiler for TPUs, and needs none.
.venv/.tpu: setup.py
	$(call install,[tiny$(comma)dev$(comma)tpu])
	@touch .venv/.tiny .venv/.dev $@

FIT = JAX_PLATFORMS=cpu $(PY) -m experiments.fit
fit: .venv/.tpu  ## programs compiled for TPU slices that are not here
	$(FIT) --config=configs/rlvr.py:model=tiny,tpu=v5e-16 \
	  --programs=encoder,sft,dpo,prefill,decode,ppo_actor,ppo_critic \
	  --json=out/fit/tiny-v5e-16.json
	$(FIT) --config=configs/sft.py:model=step-audio-r1,tpu=v5p-128 \
	  --programs=sft --json=out/fit/step-audio-r1-v5p-128-sft.json
	JAX_PLATFORMS=cpu $(PY) -m pytest tests/test_fit.py -m tpu -q

SUITE ?= features
bench: .venv/.parity  ## ours beside others' speed: SUITE=load, decode, features, train
	$(PY) -m experiments.bench $(SUITE) --json=out/bench/$(SUITE).json

tfio: .venv-tfio/.done  ## .venv-tfio, for prepare shard --decoder=tensorflow-io

# The links are FFmpeg's libraries by the names that TensorFlow-IO asks for.
.venv-tfio/.done: requirements-tfio.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in \
	  ((3, 11), (3, 12)) and "TensorFlow-IO has wheels for Python 3.11 and \
	3.12: make PYTHON=python3.12 tfio")'
	@$(PYTHON) -m venv --clear .venv-tfio
	@echo 'installing TensorFlow-IO into .venv-tfio (270 MB, under a minute)'
	@.venv-tfio/bin/python -m pip install -q --disable-pip-version-check \
	  --no-deps -r requirements-tfio.txt
	@mkdir .venv-tfio/lib/ffmpeg; cd .venv-tfio/lib/ffmpeg; \
	ln -s ../python3*/site-packages/opencv_python_headless.libs/* .; \
	for lib in lib{av,sw}*; do ln -s "$$lib" \
	  "$$(sed -E 's/-[0-9a-f]+(\.so\.[0-9]+).*/\1/' <<< "$$lib")"; done
	@touch $@

tfio-test: venv tfio  ## TensorFlow-IO decodes as libsndfile does
	JAX_PLATFORMS=cpu $(PY) -m pytest tests -m tfio -q \
	  --ignore=tests/parity

# Large pages for what a step frees and the next one asks for again: a quarter
# of a step on a CPU.  Other C libraries do not read it.
tiny: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
tiny: .venv/.tiny  ## the whole recipe on this machine, into out/tiny
	$(PY) -m experiments.pipeline --config=configs/pipeline.py:tiny \
	  --workdir=$(WORKDIR)

ask-test: venv  ## whether the run of make tiny hears: fresh speech, and no clip
	JAX_PLATFORMS=cpu MGRD_WORKDIR=$(WORKDIR) $(PY) -m pytest \
	  tests/test_ask_trained.py -m slow -q -s

soak: venv  ## the recipe, killed in every phase of every stage: ten minutes
	JAX_PLATFORMS=cpu $(PY) -m pytest tests/test_soak.py -m slow -q -s

lint: venv  ## ruff
	$(PY) -m ruff check .

clean:  ## caches and build products; keeps .venv and out
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
