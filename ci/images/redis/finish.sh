#!/usr/bin/env bash
# Gives the root file system named by $1 the entrypoint and the folder of the official Redis image.
set -euo pipefail
root=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

install -m 755 "$here/docker-entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"
chroot "$root" install -d -o redis -g redis /data

rm -rf "$root"/etc/redis "$root"/var/lib/redis "$root"/var/log/redis \
    "$root"/etc/apt/sources.list* "$root"/var/cache/debconf/* "$root"/var/log/* "$root"/var/cache/ldconfig/* "$root"/usr/share/zoneinfo/right
