# Everything runs in .venv, which is made on first use and updated when a requirements file changes.
# GNU make 3.81 (macOS) must be able to read this file.

PYTHON ?= python3
ARGS ?=
EVALUATION_ARGS ?=
UV_VERSION = 0.13.9

DEMO_PHOTOS = datasets/demo/LQ datasets/demo/photos
REALESRGAN = --model_dir realesrgan --no_paste --precision float32 --overwrite

# print a command as one would type it in one's own environment, and run it in .venv
define run
@printf '\n$$ python %s\n' '$(subst ','\'',$(1))'; .venv/bin/python $(1)
endef

# uv installs in a fraction of pip's time; it asks pip for its index. Where it fails, pip installs.
define install
@.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) && \
	index=$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$(.venv/bin/python -m pip config get global.index-url 2>/dev/null || :)}} && \
	.venv/bin/uv pip install --quiet --python .venv/bin/python $${index:+--default-index "$$index"} -r $(1) || \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r $(1)
endef

.NOTPARALLEL:
.PHONY: help demo results test test-web lint clean distclean
# the compiled modules are kept in any case: TensorFlow's take ten seconds for each process otherwise
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

help:  ## show this list
	@echo 'usage: make [PYTHON=python3.11] TARGET'
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  %-10s %s\n", $$1, $$2 }'

demo: .venv/.installed  ## restore two photos, and compare with Real-ESRGAN
	$(call run,scripts/download_weights.py realesrgan lpips)
	$(call run,scripts/make_demo.py)
	$(call run,scripts/restore.py $(DEMO_PHOTOS) -o results/demo/ours --overwrite)
	$(call run,scripts/restore.py $(DEMO_PHOTOS) -o results/demo/realesrgan $(REALESRGAN))
	$(call run,scripts/make_demo.py --summary)

results: .venv/.installed  ## measure what adaptation gains; EVALUATION_ARGS="--portraits DIR --scenes DIR" for more photos
	$(call run,scripts/download_weights.py realesrgan lpips)
	$(call run,scripts/evaluate.py --output_dir results/evaluation $(EVALUATION_ARGS))

test: .venv/.installed-dev  ## run the tests; ARGS="-k tiling" selects some
	.venv/bin/python -m pytest $(ARGS)

test-web: .venv/.installed-dev .venv/.installed-web  ## test the page of scripts/web_app.py in Chromium
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { echo 'error: the test of the page needs' \
		'Chromium. On Debian: apt install chromium chromium-driver' >&2; exit 2; }
	.venv/bin/python -m pytest -n 0 tests/web $(ARGS)

lint: .venv/.installed-dev  ## check the style, and which rooms of utils/ import which
	.venv/bin/python -m ruff check .
	.venv/bin/python -c 'from importlinter.cli import lint_imports_command as lint; lint()'

clean:  ## remove the demo and caches; keeps weights/ and .venv
	rm -rf results/demo datasets/demo .pytest_cache .ruff_cache .import_linter_cache
	find config.py main.py model utils scripts tests -type d -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove .venv as well; keeps weights/
	rm -rf .venv

.venv/.created:
	@command -v $(PYTHON) >/dev/null || { echo 'error: there is no $(PYTHON). Install Python 3.10 to 3.13, or choose' \
		'one: make PYTHON=/path/to/python3 ...' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { echo 'error: $(PYTHON) is' \
		'not Python 3.10 to 3.13. Choose one: make PYTHON=/path/to/python3 ...' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo 'error: $(PYTHON) cannot make environments. On Debian and Ubuntu:' \
		'apt install python3-venv' >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@touch $@

# the stamps are written last, so that an interrupted installation is repeated
.venv/.installed: requirements.txt | .venv/.created
	$(call install,$<)
	@touch $@

.venv/.installed-dev: requirements-dev.txt requirements.txt | .venv/.created
	$(call install,$<)
	@touch $@

.venv/.installed-web: requirements-web.txt requirements.txt | .venv/.created
	$(call install,$<)
	@touch $@
