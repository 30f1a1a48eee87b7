#!/usr/bin/env bash
# Builds of one Dockerfile (12 steps, 3 stages, 5,000 files of context), interleaved: cold, cached, one late file changed.
#
#   build.sh BASE-IMAGE COMMAND...      each COMMAND: NAME=how to build $CONTEXT, with {tag} and {cold} filled in
#
#   build.sh tiny:1 'berth=berth build -q {cold} -t {tag} .' 'classic=env DOCKER_BUILDKIT=0 docker build -q {cold} -t {tag} .'
#
# {cold} is --no-cache in cold runs. Prints milliseconds: median of ROUNDS (default 5).
set -euo pipefail
base=$1; shift
rounds=${ROUNDS:-5}
work=$(mktemp -d /var/tmp/berth-bench-build-XXXX)
trap 'rm -rf "$work"' EXIT
mkdir "$work/context"
cd "$work/context"
for folder in $(seq 50); do
    mkdir -p "src/$folder"
    for file in $(seq 100); do printf 'file %s of %s\n%0900d\n' "$file" "$folder" 0 >"src/$folder/$file.txt"; done
done
echo 'last' >late.txt
cat >Dockerfile <<END
FROM $base AS deps
WORKDIR /deps
RUN echo dependencies > list
RUN echo more >> list
FROM $base AS build
WORKDIR /build
COPY src src
RUN cat src/1/*.txt > all
RUN echo built > out
FROM $base
COPY --from=deps /deps/list /app/list
COPY --from=build /build/out /app/out
COPY late.txt /app/
RUN true
END
median() { sort -n | awk '{a[NR]=$1} END {print a[int((NR+1)/2)]}'; }
once() { # command cold
    local command=${1//\{tag\}/bench-build} before after
    command=${command//\{cold\}/$2}
    before=$(date +%s%N)
    bash -c "$command" >"$work/log" 2>&1 || { tail -20 "$work/log" >&2; exit 1; }
    after=$(date +%s%N)
    echo $(((after - before) / 1000000))
}
for kind in cold cached changed; do
    for round in $(seq "$rounds"); do
        [ "$kind" != changed ] || echo "$round $RANDOM" >late.txt
        for entry in "$@"; do
            cold=; [ "$kind" != cold ] || cold=--no-cache
            once "${entry#*=}" "$cold" >>"$work/${entry%%=*}.$kind"
        done
    done
done
printf '%-12s %8s %8s %8s  ms, median of %s\n' builder cold cached changed "$rounds"
for entry in "$@"; do
    name=${entry%%=*}
    printf '%-12s %8s %8s %8s\n' "$name" "$(median <"$work/$name.cold")" "$(median <"$work/$name.cached")" "$(median <"$work/$name.changed")"
done
