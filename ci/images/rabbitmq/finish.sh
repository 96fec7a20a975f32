#!/usr/bin/env bash
# Gives the root file system named by $1 the entrypoint, the folders and the settings of the official RabbitMQ image, and drops what only the package's tools need.
set -euo pipefail
root=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

install -m 755 "$here/docker-entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"

# Open to any user, since charts choose one; sticky, so that none may take another's files away.
rm -rf "$root"/var/lib/rabbitmq "$root"/var/log/rabbitmq "$root"/etc/rabbitmq
chroot "$root" install -d -o rabbitmq -g rabbitmq -m 1777 /var/lib/rabbitmq /var/log/rabbitmq /etc/rabbitmq /etc/rabbitmq/conf.d
# Clients come from elsewhere, and a container's log is what it writes.
printf 'loopback_users.guest = false\nlog.console = true\n' >"$root/etc/rabbitmq/conf.d/10-defaults.conf"
echo '[rabbitmq_prometheus].' >"$root/etc/rabbitmq/enabled_plugins"
chroot "$root" chown -R rabbitmq: /etc/rabbitmq

# Python runs one tool of the management's; logrotate, socat and Erlang's compilers nothing of the server.
rm -rf "$root"/usr/lib/python3* "$root"/usr/bin/python3* "$root"/usr/share/python3 \
    "$root"/etc/apt/sources.list* "$root"/var/cache/debconf/* "$root"/var/log/apt "$root"/var/log/*.log "$root"/var/cache/ldconfig/* "$root"/usr/share/zoneinfo/right
find "$root"/usr/lib/erlang -type d \( -name examples -o -name src -o -name include \) -prune -exec rm -rf {} +
