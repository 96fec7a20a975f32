#!/usr/bin/env bash
# Assembles RabbitMQ 3.10 from Debian bookworm's packages, behaving as the official image does, for machines that cannot pull docker.io/library/rabbitmq:3.10.
set -euo pipefail

: "${RECIPE_IMAGE:?set RECIPE_IMAGE to the reference to create}"
: "${RECIPE_ARCH:?set RECIPE_ARCH to amd64 or arm64}"

fail() {
    echo "rabbitmq: $1" >&2
    exit 1
}

missing=()
for program in docker mmdebstrap; do
    command -v "$program" >/dev/null || missing+=("$program")
done
((${#missing[@]} == 0)) || fail "missing programs: ${missing[*]}; install them and try again"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# A Debian host's own mirrors of bookworm are known to be reachable from it; elsewhere mmdebstrap's default serves.
sources=()
if command -v apt-get >/dev/null; then
    # shellcheck disable=SC2016 # apt-get expands these itself
    apt-get indextargets --format 'deb $(SITE) $(RELEASE) main' \
        'Created-By: Packages' 'Origin: Debian' 'Component: main' 2>/dev/null |
        grep -E ' bookworm(-updates|-security)? main$' | sort -u >"$work/sources.list" || true
    if grep -q ' bookworm main$' "$work/sources.list"; then
        sources=("$work/sources.list")
    fi
fi

echo "==> 1/2 unpack Debian bookworm with RabbitMQ 3.10"
# The user must stand before the server's package makes it: volumes and charts know it by the official image's number, 999.
# shellcheck disable=SC2016 # mmdebstrap expands this itself
mmdebstrap --variant=essential --architectures="$RECIPE_ARCH" --format=tar \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --essential-hook='echo "rabbitmq:x:999:" >>"$1/etc/group"' \
    --essential-hook='echo "rabbitmq:x:999:999::/var/lib/rabbitmq:/bin/bash" >>"$1/etc/passwd"' \
    --include=usr-is-merged,rabbitmq-server,ca-certificates,tzdata \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook="$here/finish.sh" \
    bookworm "$work/root.tar" "${sources[@]}" ||
    fail "mmdebstrap could not assemble the root file system: see its messages above"

echo "==> 2/2 build $RECIPE_IMAGE"
docker build --tag "$RECIPE_IMAGE" --file "$here/Dockerfile" "$work" ||
    fail "docker could not build $RECIPE_IMAGE: see its message above"
