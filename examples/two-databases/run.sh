#!/usr/bin/env bash
# Scene 1: PostgreSQL 15 and 17, both listening on 5432 inside, side by side on one host.
#
#   run.sh [FOLDER-WITH-PROGRAMS]      plays the scene, leaves both databases running
#   run.sh --stop                      stops them and the engine, removes everything
set -euo pipefail
[ "${1:-}" = --stop ] || given=${1:+$(realpath "$1")} # before the change of folder: it may be relative
cd "$(dirname "$0")"

work=${BERTH_DEMO_ROOT:-/var/tmp/berth-demo}
port15=${BERTH_DEMO_PORT_15:-15432}
port17=${BERTH_DEMO_PORT_17:-17432}
export BERTH_HOST=unix://$work/berth.sock
unset DOCKER_HOST

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
programs() { cat "$work/programs" 2>/dev/null || true; }

if [ "${1:-}" = --stop ]; then
    PATH=$(programs):$PATH
    ids=$(berth ps -aq)
    [ -z "$ids" ] || berth rm -f -v $ids >/dev/null
    berth volume prune -af >/dev/null
    kill "$(cat "$work/berthd.pid")"
    while kill -0 "$(cat "$work/berthd.pid" 2>/dev/null)" 2>/dev/null; do sleep 0.1; done
    rm -rf "$work"
    echo "stopped; nothing is left"
    exit 0
fi

[ "$(id -u)" = 0 ] || { echo "this needs root: containers are made for real" >&2; exit 1; }
mkdir -p "$work"
realpath "${given:-../../target/release}" >"$work/programs"
PATH=$(programs):$PATH

if ! berth version >/dev/null 2>&1; then
    say "Starting an engine on $work"
    setsid berthd -H "$BERTH_HOST" --data-root "$work/data" --exec-root "$work/run" --pidfile "$work/berthd.pid" \
        >"$work/berthd.log" 2>&1 </dev/null &
    for _ in $(seq 100); do berth version >/dev/null 2>&1 && break; sleep 0.05; done
    berth version >/dev/null || { cat "$work/berthd.log" >&2; exit 1; }
fi

bootstrap() { # name suite package
    berth image inspect "$1" >/dev/null 2>&1 && return
    say "Making image $1 from Debian $2 (once; about a minute)"
    berth image bootstrap "debian:$2" --name "$1" --package "$3"
}
bootstrap postgres:15 bookworm postgresql-15
bootstrap postgres:17 trixie postgresql-17

start() { # name image port
    berth rm -f "$1" >/dev/null 2>&1 || true
    local before after
    before=$(date +%s%N)
    berth run -d --name "$1" --restart unless-stopped -p "$3:5432" -v "$1-data:/var/lib/postgresql/data" \
        -v "$PWD/start.sh:/start.sh:ro" "$2" /start.sh >/dev/null
    after=$(date +%s%N)
    echo "$1: container started in $(((after - before) / 1000000)) ms"
}
query() { psql -h 127.0.0.1 -p "$1" -U postgres -qtA -c "$2"; }
ready() { # port
    for _ in $(seq 600); do query "$1" 'select 1' >/dev/null 2>&1 && return; sleep 0.05; done
    echo "database on port $1 did not answer within 30 s" >&2
    berth logs db15 >&2; berth logs db17 >&2
    exit 1
}

say "Two versions, each on 5432 inside, side by side"
start db15 postgres:15 "$port15"
start db17 postgres:17 "$port17"
ready "$port15"; ready "$port17"
for port in "$port15" "$port17"; do
    echo "port $port answers: $(query "$port" 'select version()' | cut -d' ' -f1,2), listening on $(query "$port" 'show port') inside"
    query "$port" "create table if not exists visits (at timestamptz default now()); insert into visits default values"
done

say "Removed and made again: the data stays in the volumes"
start db15 postgres:15 "$port15"
start db17 postgres:17 "$port17"
ready "$port15"; ready "$port17"
for port in "$port15" "$port17"; do echo "port $port still has $(query "$port" 'select count(*) from visits') visit(s)"; done

say "Left running"
berth ps
cat <<END

Query them:  psql -h 127.0.0.1 -p $port15 -U postgres
Look:        BERTH_HOST=$BERTH_HOST $(programs)/berth ps
Stop:        $PWD/run.sh --stop
END
