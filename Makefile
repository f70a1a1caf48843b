# `make demo` is all that a first look needs; `make` alone lists the rest.

PY    := .venv/bin/python
STAMP := .venv/.stamp
# What pytest runs: `make test ARGS="-k rollback -x"`.
ARGS  ?=
# By how many processes `make test` and `make test-long` run them; most tests wait. 0: none but pytest itself.
PROCESSES ?= 2
SPREAD    := -n $(PROCESSES)
# What `make chaos` and `make simulate` do: rounds of faults, the seed they are drawn from; schedules by their seeds.
ROUNDS ?= 16
SEED   ?= 1
MODE   ?= exactly_once
SEEDS  ?= 0..2000

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-long audit-dependencies test-security test-k8s test-audit test-docs site bench-trail bench-bounds bench-check bench-peers simulate chaos lint fmt lock manifests image bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with what requirements.lock names (nothing else is needed before)

$(STAMP): requirements.lock pyproject.toml .ci/setup
	@.ci/setup
	@touch $@

demo: $(STAMP) ## run two workflows on an embedded broker: no Docker, no Kafka, no cluster
	@.venv/bin/wpk demo

test: $(STAMP) ## run the tests (Apache Kafka's half needs Docker, or Java and Maven; it says so where they are missing)
	@$(PY) -m tests.support.kafka
	@$(PY) -m pytest $(SPREAD) $(ARGS)

test-long: $(STAMP) ## run what takes longer: outages, three brokers that fail, a real Kubernetes API server (needs Go)
	@$(PY) -m tests.support.kafka
	@$(PY) -m tests.support.control_plane
	@$(PY) -m tests.support.prometheus
	@$(PY) -m tests.support.crds
	@$(PY) -m pytest -m long $(SPREAD) $(ARGS)

test-k8s: $(STAMP) ## run what needs a real Kubernetes API server, with kubectl as the oracle (part of test-long; needs Go)
	@$(PY) -m tests.support.control_plane
	@$(PY) -m tests.support.crds
	@$(PY) -m pytest -m long tests/kubernetes tests/integration/test_control_plane*.py $(ARGS)

test-policy: $(STAMP) ## run what shows who may run what: policy, signatures, refusals, and Kafka's TLS, SASL and ACLs
	@$(PY) -m tests.support.kafka
	@$(PY) -m pytest -v -m "long or not long" tests/unit/test_policy.py tests/unit/test_policy_check.py \
	  tests/unit/test_policy_docs.py tests/unit/test_engine_policy.py tests/unit/test_signatures.py \
	  tests/unit/test_command_signatures.py tests/unit/test_policy_commands.py tests/unit/test_dry_run_first.py \
	  tests/unit/test_plan_drift.py tests/unit/test_policy_reload.py tests/acceptance/test_locked_down.py \
	  tests/unit/test_journal_tokens.py tests/unit/test_kafka_security_docs.py tests/integration/test_kafka_security.py $(ARGS)

# Shown are the counts that the tests print, what failed, and how many tests there were.
test-security: $(STAMP) ## run escapes, leaks of secrets, addresses, hostile answers and input; says how many of each
	@$(PY) -m tests.support.kafka
	@found=$$(mktemp); $(PY) -m pytest -m "long or not long" -q -s tests/security tests/unit/test_redact.py tests/unit/test_secrets.py \
	  tests/unit/test_engine_secrets.py tests/unit/test_api_guard.py tests/unit/test_api_urls.py \
	  tests/integration/test_api_adapter.py tests/integration/test_shell_adapter.py tests/integration/test_vault.py $(ARGS) \
	  > $$found 2>&1; code=$$?; \
	  grep -aoE '(canary|escapes|fuzz|addresses|hostile answers): .*|^(FAILED|ERROR|E  ) .*|^=* ?[0-9]+ (passed|failed).*' $$found; \
	  rm -f $$found; exit $$code

simulate: $(STAMP) ## run schedules of crashes and rebalances in simulated time: make simulate SEEDS=0..100000
	@$(PY) -m tests.simulation --seeds $(SEEDS) --mode $(MODE) --jobs $$(nproc)

chaos: $(STAMP) ## break agents, brokers and the network, and check every promise: make chaos ROUNDS=1000 SEED=7
	@$(PY) -m tests.support.kafka
	@$(PY) -m tests.chaos --rounds $(ROUNDS) --seed $(SEED) --mode $(MODE)

lint: $(STAMP) ## check style, types and layers
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports
	@$(PY) -m pip --disable-pip-version-check check

# By hand and not in CI: it asks a service on the network, and an advisory of today is no fault of whoever lands today.
audit-dependencies: $(STAMP) ## look up the locked dependencies in a database of vulnerabilities (needs the network)
	@test -x .venv/audit/bin/pip-audit || { $(PY) -m venv .venv/audit && .venv/audit/bin/python -m pip install --quiet pip-audit; }
	@.venv/audit/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict --progress-spinner off $(ARGS)

fmt: $(STAMP) ## format the code, and mend what ruff can mend
	@.venv/bin/ruff check --fix-only --quiet .
	@.venv/bin/ruff format .

# hatchling and editables build the project itself, in the venv, from the lock like all else.
# The environment's own indexes and wheel directories must not show in the lock: it names packages, not places.
lock: $(STAMP) ## resolve pyproject.toml anew into requirements.lock
	@command -v .venv/bin/uv >/dev/null || $(PY) -m pip install --quiet uv
	@printf 'hatchling>=1.27\neditables>=0.5\n' | env -u PIP_FIND_LINKS -u UV_FIND_LINKS .venv/bin/uv pip compile --quiet \
	  --upgrade --universal --python-version 3.11 --extra embedded --extra parquet --extra picture --extra otel --group dev --group docs \
	  --generate-hashes \
	  --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	  --output-file requirements.lock pyproject.toml -

# What deploy/ has of the code's tables, and the alerts for the Prometheus Operator.
manifests: $(STAMP) ## make the files of deploy/ anew that are made of others
	@$(PY) -m consumer.adapters.k8s.roles > deploy/kubernetes/roles.yaml
	@$(PY) -m consumer.journal.strimzi topics > deploy/strimzi/topics.yaml
	@$(PY) -m consumer.journal.strimzi users > deploy/strimzi/users.yaml
	@{ printf '%s\n' '# Made of deploy/prometheus/rules.yml: make manifests' 'apiVersion: monitoring.coreos.com/v1' \
	  'kind: PrometheusRule' 'metadata:' '  name: wpk-agent' '  namespace: wpk' \
	  '  labels: {app.kubernetes.io/name: wpk-agent}' 'spec:'; \
	  sed 's/^\(.\)/  \1/' deploy/prometheus/rules.yml; } > deploy/components/prometheus/rules.yaml

image: ## build the container image wpk-agent
	@docker build --tag wpk-agent .

site: $(STAMP) ## make the pages of docs/ a site in build/site
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

test-docs: $(STAMP) ## run the tutorial and check every command, link and reference of the pages (part of test and test-long)
	@$(PY) -m pytest -m "long or not long" tests/docs tests/audit/test_client_docs.py tests/unit/test_policy_docs.py \
	  tests/unit/test_kafka_security_docs.py tests/acceptance/test_locked_down.py $(ARGS)

test-audit: $(STAMP) ## run the tests of the trail's readers; on a larger trail: make test-audit WPK_AUDIT_EXECUTIONS=100000
	@$(PY) -m pytest -m "long or not long" tests/audit $(ARGS)

bench: $(STAMP) ## measure how fast it is, beside the floor: make bench ARGS="w3 s1", ARGS="--size full"
	@$(PY) -m tests.support.kafka
	@$(PY) -m bench $(ARGS)

bench-check: $(STAMP) ## hold bench/results.json against the budgets
	@$(PY) -m bench.budgets

bench-peers: $(STAMP) ## run W3 and S1 on the agent, Restate and DBOS by turns (needs npm; PostgreSQL comes from Debian's packages)
	@$(PY) -m tests.support.kafka
	@$(PY) -m bench.peers $(ARGS)

bench-bounds: $(STAMP) ## measure memory and progress under loads beyond what an agent should hold
	@$(PY) -m tests.support.kafka
	@$(PY) -m bench.bounds $(ARGS)

bench-trail: $(STAMP) ## measure how fast a trail is read: make bench-trail ARGS="--executions 100000 --broker apache"
	@$(PY) -m bench.trail $(ARGS)

clean: ## back to a fresh clone
	@rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
