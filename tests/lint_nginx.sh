#!/bin/sh
# The gateway's configurations, rendered as nginx/gateway does it, before gixy's eyes: it finds what `nginx -t` lets pass.
set -eu
folder=$(mktemp -d)
STACK_NGINX_CONF=nginx/conf STACK_BIND=127.0.0.1 STACK_PUBLIC_URL=https://mlflow.example.org
export STACK_NGINX_CONF STACK_BIND STACK_PUBLIC_URL
STACK_OBJECTSTORE=minio STACK_SERVE=Wine,Other@3 STACK_SERVE_BODY=10m STACK_WORKERS=2
export STACK_WORKERS STACK_OBJECTSTORE STACK_SERVE STACK_SERVE_BODY
for tls in off upstream; do
    proxies=
    [ "$tls" = off ] || proxies=10.1.2.3,10.2.0.0/16,fd00::/8
    STACK_TLS=$tls STACK_TRUSTED_PROXIES=$proxies nginx/gateway render "$folder/$tls"
done
# With TLS: the certificate is not there, and neither tool reads it.
cp -r "$folder/off" "$folder/tls"
cp nginx/conf/listen-tls.conf "$folder/tls/listen.conf"
for tls in off upstream tls; do
    # host_spoofing: the Host goes on as it came, since signed URLs are signed with it; it was checked before.
    gixy --skips host_spoofing "$folder/$tls/nginx.conf"
    crossplane parse "$folder/$tls/nginx.conf" >/dev/null
done
rm -rf "$folder"
