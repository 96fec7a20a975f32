#!/usr/bin/env bash
# Fetches the wheels of requirements.txt into wheels/ of the current directory, for builds whose containers reach no network.
set -euo pipefail

arch=${RECIPE_ARCH:?set RECIPE_ARCH to amd64 or arm64}
case $arch in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) echo "unknown architecture \"$arch\": set RECIPE_ARCH to amd64 or arm64" >&2; exit 1 ;;
esac
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "missing program: python3 with its pip module; install python3 and python3-pip" >&2
    exit 1
fi
if [[ ! -f requirements.txt ]]; then
    echo "no requirements.txt in $PWD: run this in a copy of the image's folder" >&2
    exit 1
fi

# The image's Python and C library decide, not the host's: CPython 3.11 and the glibc 2.36 of bookworm.
target=(--python-version 3.11 --implementation cp --abi cp311 --platform "manylinux2014_$machine")
for minor in {36..17}; do
    target+=(--platform "manylinux_2_${minor}_$machine")
done

rm -rf wheels wheels.partial
key=$(sha256sum requirements.txt | cut -c1-12)-$arch
cached=${RECIPE_CACHE:+$RECIPE_CACHE/wheels-$key}
if [[ -n $cached && -d $cached ]]; then
    echo "==> 1/1 take the wheels from the cache"
    cp -r "$cached" wheels
    exit 0
fi

echo "==> 1/1 download the wheels of requirements.txt"
# requirements.txt is the whole set, and pip would judge markers by the host's Python: hence --no-deps.
if ! python3 -m pip download --disable-pip-version-check --progress-bar off --no-deps --only-binary :all: \
    "${target[@]}" --dest wheels.partial --requirement requirements.txt; then
    rm -rf wheels.partial
    echo "the wheels of requirements.txt could not be downloaded: see pip's message above" >&2
    exit 1
fi
mv wheels.partial wheels
if [[ -n $cached ]]; then
    # Two builds at a time may both get here: each moves a whole folder into place, the later one gives way.
    mkdir -p "$RECIPE_CACHE"
    scratch=$(mktemp -d "$RECIPE_CACHE/wheels.XXXXXX")
    cp -r wheels/. "$scratch"
    chmod 755 "$scratch"
    mv --no-target-directory "$scratch" "$cached" 2>/dev/null || rm -rf "$scratch"
fi
