#!/usr/bin/env bash
# Scene 2: from a Dockerfile to production. Built by one engine, pushed, and run by two others, byte for byte the same.
#
#   run.sh [FOLDER-WITH-PROGRAMS]      plays the scene, leaves test and production running
#   run.sh --stop                      stops all of it, removes everything
set -euo pipefail
[ "${1:-}" = --stop ] || given=${1:+$(realpath "$1")} # before the change of folder: it may be relative
cd "$(dirname "$0")"

work=${BERTH_DEMO_ROOT:-/var/tmp/berth-guestbook}
registry_port=${BERTH_DEMO_REGISTRY_PORT:-15500}
test_port=${BERTH_DEMO_TEST_PORT:-18001}
production_port=${BERTH_DEMO_PRODUCTION_PORT:-18002}
registry=127.0.0.1:$registry_port
unset DOCKER_HOST BERTH_HOST

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
on() { # engine, then berth's words
    local engine=$1
    shift
    BERTH_HOST=unix://$work/$engine/berth.sock "$programs/berth" "$@"
}

if [ "${1:-}" = --stop ]; then
    programs=$(cat "$work/programs")
    for engine in production test dev; do
        [ -e "$work/$engine/berthd.pid" ] || continue
        ids=$(on $engine ps -aq)
        [ -z "$ids" ] || on $engine rm -f -v $ids >/dev/null
        on $engine network prune -f >/dev/null
        pid=$(cat "$work/$engine/berthd.pid")
        kill "$pid"
        while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    done
    rm -rf "$work"
    echo "stopped; nothing is left"
    exit 0
fi

[ "$(id -u)" = 0 ] || { echo "this needs root: containers are made for real" >&2; exit 1; }
mkdir -p "$work"
programs=$(realpath "${given:-../../target/release}")
echo "$programs" >"$work/programs"

say "Three engines on this host: dev, test, production"
for engine in dev test production; do
    on $engine version >/dev/null 2>&1 && continue
    mkdir -p "$work/$engine"
    setsid "$programs/berthd" -H "unix://$work/$engine/berth.sock" --data-root "$work/$engine/data" \
        --exec-root "$work/$engine/run" --pidfile "$work/$engine/berthd.pid" >"$work/$engine/berthd.log" 2>&1 </dev/null &
    for _ in $(seq 200); do on $engine version >/dev/null 2>&1 && break; sleep 0.05; done
    on $engine version >/dev/null || { cat "$work/$engine/berthd.log" >&2; exit 1; }
    echo "$engine: $(on $engine info -f '{{.ServerVersion}}, data in {{.DockerRootDir}}')"
done

bootstrap() { # name packages...
    local name=$1 package packages=()
    shift
    on dev image inspect "$name" >/dev/null 2>&1 && return
    for package in "$@"; do packages+=(--package "$package"); done
    say "dev: making image $name of Debian's packages (once; about a minute)"
    on dev image bootstrap -q debian:bookworm --name "$name" "${packages[@]}"
}
bootstrap guestbook-base:bookworm python3-flask python3-waitress python3-psycopg2
bootstrap postgres:15 postgresql-15
bootstrap registry:2 docker-registry

say "dev: a registry, itself a container"
on dev container inspect registry >/dev/null 2>&1 ||
    on dev run -d --name registry -p "$registry:5000" -v registry:/var/lib/docker-registry \
        -v "$PWD/registry.yml:/registry.yml:ro" registry:2 docker-registry serve /registry.yml >/dev/null
for _ in $(seq 200); do (exec 3<>"/dev/tcp/127.0.0.1/$registry_port") 2>/dev/null && break; sleep 0.05; done

say "dev: the application's tests, then its images"
on dev build --target checked app
on dev build -t "$registry/guestbook:1" --build-arg VERSION=1 app
on dev build -t "$registry/guestbook-db:1" --build-context start=../two-databases db
say "dev: the same again, with nothing changed"
time on dev build -q -t "$registry/guestbook:1" --build-arg VERSION=1 app
on dev push -q "$registry/guestbook:1"
on dev push -q "$registry/guestbook-db:1"

fail() { # engine words
    echo "$2" >&2
    on "$1" logs db >&2
    on "$1" logs app >&2
    exit 1
}
ready() { # engine port
    for _ in $(seq 600); do curl -fsS "http://127.0.0.1:$2/healthz" 2>/dev/null && return; sleep 0.05; done
    fail "$1" "the application on port $2 did not answer within 30 s"
}
sign() { # engine port words
    curl -fsS -o /dev/null -d "text=$3" "http://127.0.0.1:$2/entries" || fail "$1" "the application on port $2 took no entry"
}
deploy() { # engine port
    say "$1: the images by digest; of all the settings only $1.env is its own"
    on "$1" pull -q "$registry/guestbook@$app_digest"
    on "$1" pull -q "$registry/guestbook-db@$db_digest"
    on "$1" network inspect guestbook >/dev/null 2>&1 || on "$1" network create guestbook >/dev/null
    on "$1" rm -f app db >/dev/null 2>&1 || true
    on "$1" run -d --name db --network guestbook --restart unless-stopped -v data:/var/lib/postgresql/data \
        "$registry/guestbook-db@$db_digest" >/dev/null
    on "$1" run -d --name app --network guestbook --restart unless-stopped --env-file "$1.env" \
        -p "127.0.0.1:$2:8000" "$registry/guestbook@$app_digest" >/dev/null
    ready "$1" "$2"
}
digest() { on dev image inspect -f '{{index .RepoDigests 0}}' "$1" | sed 's/.*@//'; }
app_digest=$(digest "$registry/guestbook:1")
db_digest=$(digest "$registry/guestbook-db:1")
deploy test "$test_port"
deploy production "$production_port"

say "The tester signs in test, a customer in production"
sign test "$test_port" "tested and found well"
sign production "$production_port" "hello from outside"
for port in "$test_port" "$production_port"; do
    curl -fsS "http://127.0.0.1:$port/" | grep -E '<li>|<footer>' | sed 's/<[^>]*>/ /g'
done

say "The same bytes everywhere"
ids=$(for engine in dev test production; do
    id=$(on $engine image inspect -f '{{.Id}}' "$registry/guestbook@$app_digest")
    printf '%-10s %s\n' $engine "$id"
done)
echo "$ids"
[ "$(echo "$ids" | awk '{ print $2 }' | sort -u | wc -l)" = 1 ] || { echo "the images differ" >&2; exit 1; }

say "Left running"
for engine in test production; do on $engine ps --format 'table {{.Names}}\t{{.Image}}\t{{.Status}}\t{{.Ports}}'; done
cat <<END

Look:  http://127.0.0.1:$test_port/  and  http://127.0.0.1:$production_port/
Stop:  $PWD/run.sh --stop
END
