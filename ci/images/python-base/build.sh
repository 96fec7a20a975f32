#!/usr/bin/env bash
# Assembles a base image with Python 3.11 from Debian bookworm's packages, for machines that cannot pull docker.io/library/python:3.11-slim-bookworm.
set -euo pipefail

: "${RECIPE_IMAGE:?set RECIPE_IMAGE to the reference to create}"
: "${RECIPE_ARCH:?set RECIPE_ARCH to amd64 or arm64}"

fail() {
    echo "python-base: $1" >&2
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

echo "==> 1/2 unpack Debian bookworm with Python 3.11"
# The variant without apt (whose libstdc++6 compiled wheels need), and usr-is-merged in place of usrmerge, which would bring all of Perl (50 MB).
mmdebstrap --variant=essential --architectures="$RECIPE_ARCH" --format=tar \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
    --include=usr-is-merged,python3,python3-venv,python-is-python3,ca-certificates,libstdc++6,netbase,passwd,tzdata \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/info/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-include=/usr/share/doc/*/copyright' \
    --customize-hook="$here/finish.sh" \
    bookworm "$work/root.tar" "${sources[@]}" ||
    fail "mmdebstrap could not assemble the root file system: see its messages above"

echo "==> 2/2 import it as $RECIPE_IMAGE"
docker import --platform "linux/$RECIPE_ARCH" \
    --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV LANG=C.UTF-8' \
    --change 'CMD ["python3"]' \
    "$work/root.tar" "$RECIPE_IMAGE" ||
    fail "docker could not import the root file system as $RECIPE_IMAGE: see its message above"
