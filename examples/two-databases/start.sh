#!/bin/sh
# Starts PostgreSQL of whatever version the image has; makes the data folder on first use.
set -eu
bin=$(ls -d /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
mkdir -p /run/postgresql
chown postgres:postgres "$data" /run/postgresql
run_as() { setpriv --reuid=postgres --regid=postgres --init-groups "$@"; }
if [ ! -s "$data/PG_VERSION" ]; then
    run_as "$bin/initdb" --pgdata="$data" --auth=trust --encoding=UTF8 --locale=C >/dev/null
    echo "host all all all trust" >>"$data/pg_hba.conf"
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups "$bin/postgres" -D "$data" -c listen_addresses='*' -c port=5432
