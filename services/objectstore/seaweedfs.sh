#!/bin/sh
# SeaweedFS as the object store: one process, of which only the S3 port can be reached from other containers.
set -eu

config=/run/secrets/s3.json
grace=1 # seconds

# -volume.max: every bucket takes 7 volumes. -master.volumeSizeLimitMB: small volumes give deleted space back sooner.
# -master.electionTimeout: of one master, which has nobody to agree with, but waits so long before it leads.
# What is under way at once is bounded (MB), and Go's garbage collector told of the bound: without that a single download
# of 1 GB by a fast reader took the whole container's memory.
# The script is what its master does every 17 minutes; by itself it follows no lifecycle (docs/operating.md, "Artifacts").
run() {
    export GOMEMLIMIT=700MiB WEED_MASTER_MAINTENANCE_SCRIPTS="s3.clean.uploads -timeAgo=$((STACK_UPLOAD_DAYS * 24))h"
    umask 007 # of its socket: the gateway, which is in the group, connects to it
    exec weed -logtostderr=true -v=0 server -dir=/data -ip=127.0.0.1 -ip.bind=127.0.0.1 \
        -master.telemetry=false -master.volumeSizeLimitMB=1024 -master.electionTimeout=1s \
        -volume.max=200 -volume.preStopSeconds=0 \
        -volume.concurrentUploadLimitMB=128 -volume.concurrentDownloadLimitMB=128 \
        -filer -filer.localSocket=/tmp/filer.sock -filer.concurrentUploadLimitMB=128 \
        -s3 -s3.port=9000 -s3.ip.bind=0.0.0.0 -s3.config="$config" -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0 \
        -s3.concurrentUploadLimitMB=128 -s3.readerCacheSizeMB=128 \
        -s3.autoCreateBucket=false -s3.allowDeleteBucketNotEmpty=false -s3.allowedOrigins= -s3.localSocket=/run/objectstore/s3.sock
}

# SeaweedFS takes 15 s to stop: its parts wait for streams that they hold with each other. Requests get a short while to
# end; what was acknowledged is written by then and survives the kill (tests/stack/test_restart.py).
stop() {
    kill -TERM "$server"
    (
        sleep "$grace"
        kill -KILL "$server"
    ) 2>/dev/null &
    wait "$server" || true
    exit 0
}

# Without identities SeaweedFS lets everybody in: refuse to start rather than be open.
grep -q '"identities"' "$config" || {
    printf 'objectstore: %s has no identities: start the stack'\''s secrets service first\n' "$config" >&2
    exit 1
}
if [ -e /data/.minio.sys ]; then
    printf 'objectstore: the data in /data is MinIO'\''s: set STACK_OBJECTSTORE=minio in .env\n' >&2
    exit 1
fi
# What was acknowledged survives a loss of power: a write to a file below /data returns when it is on the disk. (SeaweedFS's
# own choice, fs.configure -fsync, does so for the bytes of objects only, not for the filer's database, which has their names.)
chattr -R +S /data 2>/dev/null || true # (not on lost+found, which is root's)
lsattr -d /data 2>/dev/null | grep -q '^[^ ]*S' ||
    printf 'objectstore: the file system of /data has no synchronous files (chattr +S): what was acknowledged in the last half minute is lost with the power\n' >&2
run &
server=$!
trap stop TERM INT
wait "$server"
