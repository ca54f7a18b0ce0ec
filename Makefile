# `make demo` and `make test` need nothing but Python 3.10 or 3.11: each makes .venv and installs what it lacks.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt

# Compiled modules are kept, wherever the environment forbids it: the tests start hundreds of processes, and one that has
# to compile torch takes three times as long to start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-runtime lint browser picture clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed-demo
	$(BIN)/ganglion demo

# What keeps time runs alone; the rest shares the cores, each test with one thread for its matrices.
test: export OMP_NUM_THREADS := 1
test:
	$(MAKE) --jobs 2 --output-sync=target lint browser test-runtime
	$(BIN)/python -m pytest -m "not timed" --numprocesses auto --dist worksteal
	$(BIN)/python -m pytest -m timed

# Interpreters that are not on the PATH; one that is nowhere is skipped, which the summary tells.
PYENV := $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/3.1*/bin/python)

test-runtime: $(VENV)/installed-all
	$(BIN)/tox run-parallel --parallel 2 $(if $(PYENV),--discover $(PYENV))

# The report of a replay is tested in a Chromium: one that is here, or Debian's, which root alone can install.
CHROMIUM := chromium-headless-shell chromium chromium-browser google-chrome google-chrome-stable
APT      := DEBIAN_FRONTEND=noninteractive apt-get --yes --quiet=2

browser:
	@for name in $(CHROMIUM); do command -v $$name && exit; done; \
	install="$(APT) install --no-install-recommends chromium-headless-shell"; \
	[ "$$(id -u)" = 0 ] && command -v apt-get && { eval "$$install" || { $(APT) update && eval "$$install"; }; } || \
	  echo "notice: no Chromium is here, so the report's tests are skipped; install one," \
	    "or let $(BIN)/playwright install chromium fetch its own"

lint: $(VENV)/installed-all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The same walk with the same seed twice, two leg encoders lost half-way: README's video and GIF.
WALK := $(BIN)/ganglion video bundles/a1_walk_hold.onnx bundles/a1_walk.onnx --fault lost:FL_upper_joint+RL_hip_joint@5

picture: $(VENV)/installed-all
	$(WALK) -o docs/a1_walk.mp4
	$(WALK) -o docs/a1_walk.gif --fps 8 --width 360

# The picture of the report in docs/replay.md, from the bag of `make demo`.
docs/report.png: runs/demo/bag $(VENV)/installed-all | browser
	$(BIN)/python -m benchmarks.report_picture $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v in ((3, 10), (3, 11)) else \
	  "error: PyBullet has wheels for Python 3.10 and 3.11, this is %d.%d; choose one, e.g. make PYTHON=python3.11" % v)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[cpu,ros,sim,replay,report]'
	@touch $@

$(VENV)/installed-all: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[all]'
	@touch $@ $(VENV)/installed-demo

clean:
	rm -rf $(VENV) .tox build dist *.egg-info
