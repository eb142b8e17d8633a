#!/bin/sh
# archive_command: hands a segment of WAL to the backup container, once there is a backup that it can go with.
set -eu
[ -e /archiving/on ] || exit 0
exec pgbackrest --stanza=main archive-push "$1"
