#!/usr/bin/env bash
# Docker's client libraries and tools, as their users install them, into one folder: for tests/e2e/tests/clients.rs.
#
#   setup.sh [FOLDER]     default: target/clients
#
# Needs python3 with venv, node, npm and cargo. Nothing of it is built into anything.
set -euo pipefail
cd "$(dirname "$0")/../../.."
folder=${1:-target/clients}
mkdir -p "$folder"
[ -x "$folder/venv/bin/python" ] || python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet docker testcontainers ansible
folder=$(realpath "$folder")
cargo build --quiet --manifest-path tests/e2e/clients/rust/Cargo.toml --target-dir "$folder/rust"
cd "$folder"
[ -e package.json ] || npm init -y >/dev/null
npm install --silent --no-audit --no-fund dockerode @devcontainers/cli
echo "ready: $PWD"
