#!/bin/sh
# Starts Redis as the official image does: as its user, on every address, with what follows as its configuration file or its options.
set -eu

case ${1:-} in
    -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "${1:-}" != redis-server ]; then
    exec "$@"
fi
if [ "$(id -u)" = 0 ]; then
    find . ! -user redis -exec chown redis: {} +
    exec setpriv --reuid redis --regid redis --init-groups "$0" "$@"
fi
umask 0077
shift
# The official image is compiled without the protection that refuses clients from elsewhere; what the user gives comes later and wins.
case ${1:-} in
    '' | -*) exec redis-server --protected-mode no "$@" ;;
    *)
        file=$1
        shift
        exec redis-server "$file" --protected-mode no "$@"
        ;;
esac
