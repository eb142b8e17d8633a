#!/bin/sh
# The gateway's configuration, rendered as nginx/gateway does it, before gixy's eyes: it finds what `nginx -t` lets pass.
set -eu
config=$(mktemp)
STACK_BUCKET=mlflow-artifacts STACK_S3_ADDRESS=objectstore:9000
export STACK_BUCKET STACK_S3_ADDRESS
sed -e "s/\${STACK_BUCKET}/$STACK_BUCKET/g" -e "s/\${STACK_S3_ADDRESS}/$STACK_S3_ADDRESS/g" nginx/conf/nginx.conf.template >"$config"
# host_spoofing: the Host goes on as it came, since signed URLs are signed with it; MLflow checks it against its own list.
gixy --disable-includes --skips host_spoofing "$config"
crossplane parse --ignore=include "$config" >/dev/null
rm -f "$config"
