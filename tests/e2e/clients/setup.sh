#!/usr/bin/env bash
# Docker's client libraries and tools, as their users install them, into one folder: for tests/e2e/tests/clients.rs.
#
#   setup.sh [FOLDER]     default: target/clients
#
# Needs python3 with venv, node and npm. Nothing of it is built into anything.
set -euo pipefail
cd "$(dirname "$0")/../../.."
folder=${1:-target/clients}
mkdir -p "$folder"
[ -x "$folder/venv/bin/python" ] || python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet docker testcontainers ansible
cd "$folder"
[ -e package.json ] || npm init -y >/dev/null
npm install --silent --no-audit --no-fund dockerode
echo "ready: $PWD"
