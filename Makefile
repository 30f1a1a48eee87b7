# make demo   install what is missing, build, play scene 1
# make test   every test, unit to end-to-end
# make nightly  what takes too long for every change: fuzzing, a power cut at every step, measurements
# make test-isolation  the container tests with a machine around each container; an hour or more where machines are emulated
# make test-v2  what differs on cgroup v2, in a virtual machine

SHELL := /bin/bash
CARGO ?= cargo

.PHONY: demo test nightly test-isolation test-v2 build setup install console

build: console
	$(CARGO) build --release --bins

# The web console's pages; without node the engine is built without them.
console:
	@if command -v npm >/dev/null; then cd web && npm ci --no-audit --no-fund --silent && npm run --silent build; \
	else echo "skipped: the console's pages need node and npm"; fi

setup:
	scripts/setup.sh

demo: setup build
	examples/two-databases/run.sh target/release

test: setup console
	$(CARGO) xtask ci

# The steps one by one: scripts/nightly.sh
nightly: setup build
	scripts/nightly.sh

test-isolation: setup
	scripts/isolation.sh

# On a virtual machine with cgroup v2 only and Debian's own kernel.
test-v2:
	tests/v2/run.sh

PREFIX ?= /usr/local
install: build
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin target/release/{berth,berthd,berth-shim,berth-runtime,berth-dns,berth-vmm,berth-agent}
	install -d $(DESTDIR)/etc/systemd/system $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	sed 's|/usr/bin/|$(PREFIX)/bin/|' dist/systemd/berth.service > $(DESTDIR)/etc/systemd/system/berth.service
	install -m 0644 dist/systemd/berth.socket $(DESTDIR)/etc/systemd/system/berth.socket
	target/release/berth completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/berth
