#!/bin/sh
# Keeps the server's WAL from filling the disk: without room for it Postgres ends in a PANIC, and comes up only to end in the
# next one. So as soon as little is left, it takes no more writes, until there is room again; reads go on. Runs before the
# start and with each question of Docker's for its health. (MLflow answers 503: services/mlflow/tracking/space.py.)
set -eu

little=256 enough=320 # MB: what a quarter of a minute may write, and what the end of a recovery needs
conf=/tmp/space.conf  # (postgresql.conf includes it; without a server it is as it was at the start)

# shellcheck disable=SC2046  # two numbers
set -- $(stat --file-system --format '%a %S' "$(dirname "$PGDATA")")
free=$(($1 * $2 / 1048576))

# Has the server read its configuration again (at the start there is none), and says why.
tell() { # text
    if server=$(head -n 1 "$PGDATA/postmaster.pid" 2>/dev/null); then kill -HUP "$server"; fi
    printf 'postgres: %s\n' "$1" >/proc/1/fd/2
}

[ -e "$conf" ] || : >"$conf"
if [ "$free" -lt "$little" ] && [ ! -s "$conf" ]; then
    echo 'default_transaction_read_only = on' >"$conf"
    tell "only $free MB are free where the database lies: it takes no writes before there are $enough"
elif [ "$free" -ge "$enough" ] && [ -s "$conf" ]; then
    : >"$conf"
    tell "$free MB are free where the database lies: it takes writes again"
fi
