#!/usr/bin/env bash
# Starts RabbitMQ as the official image does: as its user. The server itself reads RABBITMQ_DEFAULT_USER, RABBITMQ_DEFAULT_PASS and RABBITMQ_DEFAULT_VHOST.
set -euo pipefail

if [[ ${1:-} == rabbitmq* && $(id -u) == 0 ]]; then
    find /var/lib/rabbitmq ! -user rabbitmq -exec chown rabbitmq: {} +
    exec setpriv --reuid rabbitmq --regid rabbitmq --init-groups "${BASH_SOURCE[0]}" "$@"
fi
exec "$@"
