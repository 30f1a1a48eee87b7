# make demo   install what is missing, build, play scene 1
# make test   every test, unit to end-to-end

SHELL := /bin/bash
CARGO ?= cargo

.PHONY: demo test build setup install

build:
	$(CARGO) build --release --bins

setup:
	scripts/setup.sh

demo: setup build
	examples/two-databases/run.sh target/release

test: setup
	$(CARGO) xtask ci

PREFIX ?= /usr/local
install: build
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin target/release/{berth,berthd,berth-shim,berth-runtime}
	install -d $(DESTDIR)/etc/systemd/system $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	sed 's|/usr/bin/|$(PREFIX)/bin/|' dist/systemd/berth.service > $(DESTDIR)/etc/systemd/system/berth.service
	install -m 0644 dist/systemd/berth.socket $(DESTDIR)/etc/systemd/system/berth.socket
	target/release/berth completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/berth
