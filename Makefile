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

install: build
	install -D -m 0755 target/release/{berth,berthd,berth-shim,berth-runtime} -t $(DESTDIR)/usr/local/bin
	install -D -m 0644 dist/systemd/* -t $(DESTDIR)/etc/systemd/system
