# Every target first sets up its dependencies in .venv.
BIN := .venv/bin

.PHONY: setup setup-local run test test-long drills check check-leaks check-deploy bench clean

setup:
	@deploy/setup dev

setup-local:
	@deploy/setup local

run: setup-local  ## upscale a sample photograph through the whole path, then serve (ONCE=1: stop there)
	@$(BIN)/python -m deploy.demo $(if $(ONCE),--once) $(if $(PORT),--port $(PORT))

test: check
	$(BIN)/pytest -m "not slow and not long and not drill" -n 3 --dist loadfile --max-worker-restart=0

test-long: setup  ## tests that take minutes: a live Prometheus, cut links, 300 jobs, thousands of requests
	$(BIN)/pytest -m long

drills: setup  ## failure drills, for over an hour; docs/reliability.md has the results
	$(BIN)/pytest -m drill tests/drills
	PYTHONPATH=.:tests/support:tests/servers $(BIN)/python tests/drills/simulation.py --schedules 100000

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(BIN)/python -m deploy.audit
	@$(MAKE) --no-print-directory check-leaks

check-leaks:  ## of all files that git tracks; without git of all files
	@{ git ls-files -z 2>/dev/null || find . -type f ! -path './.*/*' -print0; } | \
		grep -zvE '\.(safetensors|png|jpg)$$|/openapi\.json$$' | \
		xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline

check-deploy: setup  ## images, compose files, YAML, shell scripts and rules, without a container engine
	@deploy/check

bench: setup-local
	$(BIN)/gdsr-bench service

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
