#!/usr/bin/env bash
# Assembles PostgreSQL 15 from Debian bookworm's packages, behaving as the official image does, for machines that cannot pull docker.io/library/postgres:15.
set -euo pipefail

: "${RECIPE_IMAGE:?set RECIPE_IMAGE to the reference to create}"
: "${RECIPE_ARCH:?set RECIPE_ARCH to amd64 or arm64}"

fail() {
    echo "postgres: $1" >&2
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

echo "==> 1/2 unpack Debian bookworm with PostgreSQL 15"
# The user must stand before the server's package makes it: volumes and charts know it by the official image's number, 999.
# The server's query compiler (LLVM, 110 MB) is left out: where it is missing the server does without, as it does for any short query.
# The folder of the server's socket is below /run, which is otherwise emptied.
# shellcheck disable=SC2016 # mmdebstrap expands this itself
mmdebstrap --variant=essential --architectures="$RECIPE_ARCH" --format=tar --skip=cleanup/run \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --essential-hook='echo "postgres:x:999:" >>"$1/etc/group"' \
    --essential-hook='echo "postgres:x:999:999::/var/lib/postgresql:/bin/bash" >>"$1/etc/passwd"' \
    --essential-hook='mkdir -p "$1/etc/postgresql-common" && echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
    --include=usr-is-merged,postgresql-15,postgresql-client-15,libnss-wrapper,locales,tzdata,xz-utils,zstd,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --dpkgopt='path-exclude=/usr/lib/postgresql/15/lib/bitcode/*' \
    --dpkgopt='path-exclude=/usr/lib/postgresql/15/lib/llvmjit*' \
    --dpkgopt='path-exclude=/usr/lib/*-linux-gnu/libLLVM*' \
    --dpkgopt='path-exclude=/usr/lib/*-linux-gnu/libz3*' \
    --dpkgopt='path-exclude=/usr/lib/llvm-*' \
    --customize-hook="$here/finish.sh" \
    bookworm "$work/root.tar" "${sources[@]}" ||
    fail "mmdebstrap could not assemble the root file system: see its messages above"

echo "==> 2/2 build $RECIPE_IMAGE"
docker build --tag "$RECIPE_IMAGE" --file "$here/Dockerfile" "$work" ||
    fail "docker could not build $RECIPE_IMAGE: see its message above"
