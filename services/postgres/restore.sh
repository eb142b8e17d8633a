#!/bin/sh
# Makes the cluster of a backup, in a container of its own: replays WAL to the target, then takes the place of the former
# cluster at once. /from holds the backups; a passphrase comes by standard input.
set -eu

bin=/usr/lib/postgresql/17/bin
label=$1 type=$2 target=$3 id=$4
new=$PGDATA.restored
conf=/tmp/restore.conf
log=/tmp/recovery.log
WAL_MB=300 # that a server has in its folder, and some room
umask 077

fail() {
    printf 'postgres: %s\n' "$1" >&2
    exit 1
}

write_conf() {
    passphrase=$(cat)
    {
        printf '[global]\nrepo1-path=/from/postgres\nlock-path=/tmp/pgbackrest\nlog-level-console=warn\nlog-level-file=off\n'
        printf 'process-max=2\n'
        [ -z "$passphrase" ] || printf 'repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=%s\n' "$passphrase"
        printf '[main]\npg1-path=%s\n' "$new"
    } >"$conf"
}

recover() { # type, target
    rm -rf "$new"
    mkdir -m 0750 "$new"
    case $1 in
    end) set -- --type=default ;;
    *) set -- "--type=$1" "--target=$2" --target-action=promote ;;
    esac
    # (the backup's own timeline: after a restore another one began, which has other things at the same time)
    pgbackrest --config="$conf" --stanza=main --set="$label" --archive-mode=off --target-timeline=current "$@" restore ||
        fail "backup $label can't be restored, see above: the former database is untouched"
    "$bin/pg_ctl" --pgdata="$new" --log="$log" --wait --timeout=86400 --silent start -o "-c config_file=/etc/postgres/postgresql.conf \
        -c listen_addresses='' -c unix_socket_directories=/tmp -c archive_mode=off" || return 1
    # It answers before the target was reached, and ends by itself if it never is.
    while in_recovery=$("$bin/psql" --host=/tmp --no-psqlrc --tuples-only --no-align --command='SELECT pg_is_in_recovery()' 2>/dev/null) ||
        [ -e "$new/postmaster.pid" ]; do
        [ "$in_recovery" != f ] || return 0
        sleep 0.2
    done
    return 1
}

settle() { # ends the recovered server, and with it what the recovery was told
    "$bin/pg_ctl" --pgdata="$new" --wait --mode=fast --silent stop
    sed -i -e '/^restore_command/d' -e '/^recovery_target/d' -e '/^archive_mode/d' -e '/pgBackRest/d' "$new/postgresql.auto.conf"
    # Nobody archived that a new timeline began: the server is to do it, or the next restore would take the same number.
    for history in "$new"/pg_wal/*.history; do
        [ ! -e "$history" ] || : >"$new/pg_wal/archive_status/${history##*/}.ready"
    done
}

check_space() { # (what the former database takes stays until the new one is whole; of the WAL a part at a time is there)
    said=$(pgbackrest --config="$conf" --stanza=main --set="$label" --output=json info) || fail "backup $label can't be read, see above: the former database is untouched"
    size=$(printf %s "$said" | grep -oE '"size":[0-9]+' | sed 's/.*://' | sort -n | tail -n 1)
    free=$(df -Pk "$(dirname "$PGDATA")" | awk 'NR == 2 {print int($4 / 1024)}')
    needed=$((${size:-0} / 1048576 + WAL_MB))
    [ "$free" -ge "$needed" ] || fail "only $free MB are free for the database, and the one of backup $label needs $needed MB beside it: free space: the former database is untouched"
}

write_conf
rm -rf "$new" "$PGDATA.replacing"
trap 'rm -rf "$new"' EXIT
check_space
if ! recover "$type" "$target"; then
    # Nothing was committed after that time, as far as the archive goes: its end is that moment.
    { [ "$type" = time ] && grep -q 'recovery ended before configured recovery target was reached' "$log"; } ||
        { tail -n 20 "$log" >&2 && fail "backup $label can't be replayed to $type '$target': the former database is untouched"; }
    recover end '' || { tail -n 20 "$log" >&2 && fail "backup $label can't be replayed: the former database is untouched"; }
fi
settle
printf '%s\n' "$id" >"$PGDATA.replacing" # (./stack asks for it when this ends otherwise than well)
sync
trap - EXIT
# (killed between the two, there is the one or the other under another name, and entrypoint.sh makes no empty cluster)
if [ -e "$PGDATA" ]; then
    rm -rf "$PGDATA.replaced"
    mv "$PGDATA" "$PGDATA.replaced"
fi
mv "$new" "$PGDATA"
sync
rm -rf "$PGDATA.replaced"
