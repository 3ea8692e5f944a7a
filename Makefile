PYTHON ?= python3.11
VENV ?= .venv
RUN = $(VENV)/bin/python
# where packages come from is the machine's own configuration
INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: env demo test lint slow scale gpu lock clean

env: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

demo: env
	$(RUN) examples/demo.py

test: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(RUN) -m pytest -n 2 --dist loadfile

slow: env
	$(RUN) -m pytest -m slow

scale: env
	$(RUN) -m pytest -m scale -s

gpu: env
	$(RUN) -m pytest -m gpu

# the lock names versions and no address; newest-with-newest breaks, so it is changed on purpose only
lock:
	$(VENV)/bin/python -m pip freeze --all --exclude-editable --exclude pip > requirements.lock

clean:
	rm -rf $(VENV) demo build dist .mypy_cache .ruff_cache .pytest_cache
