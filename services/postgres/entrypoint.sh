#!/bin/sh
# Makes the cluster at the first start, sets the roles' rights and passwords at every start, then becomes the server.
set -eu

bin=/usr/lib/postgresql/17/bin
roles="mlflow auth" # each owns the database of its own name
sql=/tmp/statements # on a tmpfs, for this user's eyes only
umask 077

fail() {
    printf 'postgres: %s\n' "$1" >&2
    exit 1
}

check_secrets() {
    for role in $roles undo; do
        file=/run/secrets/${role}_password
        [ -r "$file" ] || fail "$file can't be read: start the stack's secrets service first"
        # The password is put into a quoted SQL literal below.
        case $(cat "$file") in '' | *[!A-Za-z0-9_-]*) fail "$file: only A-Z a-z 0-9 _ - may be in a password" ;; esac
    done
}

# Runs the statements in $sql. Single-user mode opens no port. It must be this shell's own child, not a pipe's: after a
# kill -9 the data directory names this process's number as its owner, which Postgres takes for stale only in its parent.
# A failed statement must not be logged: it may hold a password. (Without archive_mode it would remove, at its end, WAL that
# was not handed over yet; without track_commit_timestamp, what is known of former commits.)
run_sql() { # data directory
    "$bin/postgres" --single -j -D "$1" -c archive_mode=on -c track_commit_timestamp=on -c log_min_error_statement=panic -c exit_on_error=on postgres <"$sql" >/dev/null
    rm -f "$sql"
}

make_cluster() {
    if [ -s "$PGDATA/PG_VERSION" ]; then
        rm -rf "$PGDATA.restored" # (of a restore that was killed: it would take the room that the server needs)
        return
    fi
    [ ! -e "$PGDATA.replaced" ] || fail "a restore was interrupted (what was there before is in $PGDATA.replaced): run ./stack restore again"
    new=$PGDATA.new # renamed when complete: an interrupted first start leaves no half-made cluster
    rm -rf "$new"
    "$bin/initdb" --pgdata="$new" --username=postgres --encoding=UTF8 --locale=C.UTF-8 --data-checksums --allow-group-access \
        --auth-local=peer --auth-host=scram-sha-256 >/dev/null
    for role in $roles; do
        printf 'CREATE ROLE %s LOGIN;\n\nCREATE DATABASE %s OWNER %s;\n\nREVOKE ALL ON DATABASE %s FROM PUBLIC;\n\n' \
            "$role" "$role" "$role" "$role"
    done >"$sql"
    run_sql "$new"
    mv "$new" "$PGDATA"
}

# The backup container's user reads the files and, by the role of its name, all rows; it may write none.
open_for_backup() {
    # (the mode of the folder says what files that come later have)
    if [ "$(stat -c %a "$PGDATA")" != 750 ]; then chmod -R g+rX "$PGDATA"; fi
    chmod g+rx "$(dirname "$PGDATA")"
}

set_roles() {
    {
        for role in $roles; do
            printf "ALTER ROLE %s PASSWORD '%s';\n\nGRANT CONNECT ON DATABASE %s TO backup;\n\n" \
                "$role" "$(cat "/run/secrets/${role}_password")" "$role"
        done
        printf "ALTER ROLE undo PASSWORD '%s';\n\nGRANT CONNECT ON DATABASE auth TO undo;\n\n" "$(cat /run/secrets/undo_password)"
    } | cat /etc/postgres/backup_role.sql - >"$sql"
    run_sql "$PGDATA"
}

# What goes by the memory that the container may have (docker-compose.yml: mem_limit); the rest is in postgresql.conf.
read_memory() { # prints MB
    bytes=$(cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || echo max)
    case $bytes in '' | *[!0-9]*) bytes=0 ;; esac
    # (without a limit, a number larger than any machine)
    if [ "$bytes" -eq 0 ] || [ "${#bytes}" -gt 15 ]; then bytes=$(($(awk '/^MemTotal:/ {print $2}' /proc/meminfo) * 1024)); fi
    echo $((bytes / 1048576))
}

size_by_memory() {
    memory=$(read_memory)
    printf '%s = %sMB\n' shared_buffers $((memory / 4)) effective_cache_size $((memory * 3 / 4)) \
        maintenance_work_mem $((memory / 16)) >/tmp/memory.conf
}

_main() {
    check_secrets
    make_cluster
    open_for_backup
    set_roles
    size_by_memory
    /etc/postgres/space.sh
    exec "$bin/postgres" -c config_file=/etc/postgres/postgresql.conf "$@"
}
_main "$@"
