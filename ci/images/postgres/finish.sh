#!/usr/bin/env bash
# Gives the root file system named by $1 the entrypoint, the folders and the locale of the official PostgreSQL image, and drops what only the package's tools need.
set -euo pipefail
root=$1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

install -m 755 "$here/docker-entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"
mkdir -p "$root/docker-entrypoint-initdb.d"

# Open to any user, since charts choose one; sticky, so that none may take another's socket away.
chroot "$root" install -d -o postgres -g postgres -m 3777 /var/run/postgresql
chroot "$root" install -d -o postgres -g postgres -m 1777 /var/lib/postgresql /var/lib/postgresql/data

sed -i "s/^#\?listen_addresses = .*/listen_addresses = '*'/" "$root/usr/share/postgresql/15/postgresql.conf.sample"

chroot "$root" localedef -i en_US -c -f UTF-8 -A /usr/share/locale/locale.alias en_US.UTF-8 2>/dev/null ||
    chroot "$root" localedef -i en_US -c -f UTF-8 en_US.UTF-8

# Perl runs Debian's wrappers around the server's programs, which stand on PATH themselves; the rest is the source of locales and logs.
rm -rf "$root"/usr/lib/*-linux-gnu/perl "$root"/usr/lib/*-linux-gnu/libperl.so* "$root"/usr/share/perl "$root"/usr/share/perl5 \
    "$root"/usr/share/i18n "$root"/usr/share/postgresql/15/man "$root"/usr/share/postgresql-common "$root"/usr/lib/postgresql/15/lib/pgxs \
    "$root"/etc/apt/sources.list* "$root"/var/cache/debconf/* "$root"/var/log/* "$root"/var/cache/ldconfig/* "$root"/usr/share/zoneinfo/right
for program in "$root"/usr/bin/*; do
    if [[ -L $program && $(readlink "$program") == *postgresql-common/pg_wrapper ]]; then
        rm "$program"
    fi
done
