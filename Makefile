# Everything below runs in .venv, which is made when it is missing or stale: see scripts/make_venv.py.
# GNU make 3.81, as macOS has it, must be able to read this file.

PYTHON ?= python3
ARGS ?=
EVALUATION_ARGS ?=
SHELL = /bin/sh

# an explicit choice replaces an environment made with another Python; the default does not
CHOSEN = $(if $(filter file,$(origin PYTHON)),,--chosen)

DEMO_ARGS = --input_dir datasets/demo/LQ --face_dir datasets/demo --overwrite
OWN_MODEL = --model_dir metaf2n-x4plus

# the detector and the restorer that need no download
DEMO_FACES = --input_dir datasets/demo/LQ --output_dir datasets/demo --detector mtcnn --restorer rrdb-face --overwrite

# print a command as one would type it in one's own environment, and run it in .venv
define run
@printf '\n$$ python %s\n' '$(subst ','\'',$(1))'; .venv/bin/python $(1)
endef

define make_venv
@command -v $(firstword $(PYTHON)) >/dev/null || { \
	echo 'error: there is no $(firstword $(PYTHON)): install Python 3.10 to 3.13, with venv (Debian, Ubuntu:' \
		'apt install python3 python3-venv), or choose one: make PYTHON=/path/to/python3 ...' >&2; exit 2; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 6))' || { \
	echo 'error: $(PYTHON) is too old: Python 3.10 to 3.13 is needed; choose one: make PYTHON=/path/to/python3 ...' \
		>&2; exit 2; }
@$(PYTHON) scripts/make_venv.py $(CHOSEN) $(1)
endef

.NOTPARALLEL:
.PHONY: help demo results test lint clean distclean environment environment-dev
# what others put on the path is not in .venv
unexport PYTHONPATH PYTHONHOME

help:  ## show this list
	@echo 'usage: make [PYTHON=python3.11] TARGET'
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  %-16s %s\n", $$1, $$2 }'

demo: environment  ## restore a degraded portrait by Real-ESRGAN, un-adapted, adapted and safeguarded, and compare
	$(call run,scripts/download_weights.py realesrgan)
	$(call run,scripts/make_demo.py)
	$(call run,generate_test_faces.py $(DEMO_FACES))
	$(call run,test.py $(DEMO_ARGS) --model_dir realesrgan --output_dir results/demo/realesrgan --fine_tune_num 0)
	$(call run,test.py $(DEMO_ARGS) $(OWN_MODEL) --output_dir results/demo/unadapted --fine_tune_num 0)
	$(call run,test.py $(DEMO_ARGS) $(OWN_MODEL) --output_dir results/demo/adapted)
	$(call run,test.py $(DEMO_ARGS) $(OWN_MODEL) --output_dir results/demo/safeguarded --safeguard backtrack)
	$(call run,scripts/make_demo.py --summary)

results: environment  ## measure what adaptation gains; EVALUATION_ARGS="--portraits DIR --scenes DIR" for more photos
	$(call run,scripts/download_weights.py realesrgan)
	-$(call run,scripts/download_weights.py lpips niqe)
	$(call run,scripts/evaluate.py --output_dir results/evaluation $(EVALUATION_ARGS))

test: environment-dev  ## run the tests; ARGS="-k tiling" chooses some
	.venv/bin/python -m pytest $(ARGS)

lint: environment-dev  ## check the style
	.venv/bin/ruff check .

clean:  ## remove the demo and caches; keeps weights/ and .venv
	rm -rf results/demo datasets/demo .pytest_cache .ruff_cache
	find . \( -path ./.git -o -path ./.venv -o -path ./datasets -o -path ./results -o -path ./experiments \) -prune \
		-o -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove .venv as well; keeps weights/
	rm -rf .venv

environment:  ## make .venv, or bring it up to date
	$(call make_venv)

environment-dev:  ## the same, with what test and lint need
	$(call make_venv,--dev)
