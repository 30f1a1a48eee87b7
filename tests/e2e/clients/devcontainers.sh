#!/usr/bin/env bash
# The devcontainers command line, as editors and CI systems use it: an image with a feature, lifecycle commands, a
# volume, programs in the container, and the container found again.
set -euo pipefail
cli=$1
folder=$SCRATCH/devcontainer
cp -r "$(dirname "$0")/devcontainer" "$folder"
inside() { "$cli" exec --workspace-folder "$folder" "$@"; }
fail() { echo "$1" >&2; exit 1; }

up=$("$cli" up --workspace-folder "$folder" --mount-workspace-git-root=false)
id=$(printf %s "$up" | sed -n 's/.*"containerId":"\([0-9a-f]*\)".*/\1/p')
[ -n "$id" ] || fail "not up: $up"
[ "$(inside cat /what)" = "from an argument" ] || fail "the build's argument"
[ "$(inside cat /notes/note)" = "from an option" ] || fail "the feature's option"
[ "$(inside sh -c 'cat /kept/created; cat /kept/one /kept/two; echo $IN_CONTAINER')" = $'created\none\ntwo\n1' ] ||
    fail "lifecycle commands"
inside sh -c 'echo "$PATH"' | grep -q ':/notes' || fail "the remote environment"
inside ls .devcontainer/devcontainer.json >/dev/null || fail "the workspace's folder"
code=0; inside sh -c 'exit 7' || code=$?
[ "$code" = 7 ] || fail "an exit code: $code"
# Up once more is the same container; a stopped one is started again.
docker stop -t 0 "$id" >/dev/null
again=$("$cli" up --workspace-folder "$folder" --mount-workspace-git-root=false)
case $again in *"$id"*) ;; *) fail "another container: $again" ;; esac
"$cli" build --workspace-folder "$folder" --image-name notes:built >/dev/null
docker run --rm notes:built cat /notes/note | grep -q "from an option" || fail "the built image"
docker rm -f "$id" >/dev/null
docker volume rm devcontainer-notes >/dev/null
echo done
