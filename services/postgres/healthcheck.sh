#!/bin/sh
# Docker's question: does the server answer, and has it room?
# -h: the server that sets passwords before the start listens on no port.
# (pg_isready by its own path: Debian wraps it in a script of Perl, which takes ten times as long)
/etc/postgres/space.sh
exec /usr/lib/postgresql/17/bin/pg_isready --quiet --host=127.0.0.1 --dbname=mlflow --username=mlflow
