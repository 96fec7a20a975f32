#!/usr/bin/env bash
# Builds a Kind node image from package registries alone (Debian and Go modules), for machines that reach no image registry.
set -euo pipefail

recipe=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
: "${RECIPE_IMAGE:?set it to the image reference to create}"
: "${RECIPE_CACHE:?set it to a folder that may keep build outputs}"
: "${RECIPE_ARCH:?set it to amd64 or arm64}"

# bookworm and not a later release: its systemd is the last one that still runs on cgroup v1.
suite=bookworm
packages=(
    systemd usr-is-merged conntrack iptables nftables iproute2 ethtool util-linux mount kmod libseccomp2 runc e2fsprogs
    bash ca-certificates curl jq pigz procps busybox catatonit
)
# Each line is one call of go build. The provisioner has its own: its logrus differs from the others' in an upper-case letter
# alone, and Go refuses to see both at once.
kubernetes_programs=(
    .
    github.com/rancher/local-path-provisioner
)
cni=github.com/containernetworking/plugins/plugins
containerd_programs=(
    ". github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 $cni/ipam/host-local $cni/main/loopback $cni/main/ptp $cni/meta/portmap"
)
declare -A running=()
container=

main() {
    require_programs
    work=$(mktemp -d)
    trap clean_up EXIT
    mkdir -p "$RECIPE_CACHE" "$work/node/usr/bin" "$work/node/usr/local/bin" "$work/node/opt/cni/bin" "$work/node/kind"

    local kubernetes containerd
    kubernetes=$(pinned kubernetes k8s.io/kubernetes)
    containerd=$(pinned containerd github.com/containerd/containerd/v2)

    step 1 "install Debian $suite"
    start rootfs make_rootfs
    start modules fetch_kubernetes_modules
    step 2 "compile containerd $containerd"
    start containerd compile_containerd "$containerd"
    wait_for containerd
    step 3 "compile Kubernetes $kubernetes"
    # Not at the same time as containerd: the two share a good part of their packages, and the second finds them compiled.
    start kubernetes compile_kubernetes "$kubernetes"
    wait_for kubernetes
    wait_for rootfs

    step 4 "assemble the node's file system"
    import_node_base
    step 5 "bring the component images into its containerd"
    populate_node "$kubernetes"
    step 6 "commit $RECIPE_IMAGE"
    commit_node
}

step() { echo "==> $1/6 $2"; }

fail() {
    echo "$*" >&2
    exit 1
}

require_programs() {
    local program missing=()
    for program in docker go mmdebstrap tar sha256sum; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    # A Debian host has the keys, another distribution has them in a package of this name.
    [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]] || missing+=(debian-archive-keyring)
    ((${#missing[@]} == 0)) || fail "the node image recipe needs ${missing[*]}: install what is missing and put it on PATH"
    docker version >/dev/null || fail "the docker command does not reach an engine: start it"
}

# pinned prints the version of a module that a go.mod of the recipe requires, which is where versions stand.
pinned() {
    awk -v module="$2" '{ sub(/^require /, "") } $1 == module && $2 ~ /^v/ { print $2; exit }' "$recipe/src/$1/go.mod"
}

# start runs a function as a job in a process group of its own, so that it can be ended together with what it started.
start() {
    local name=$1
    shift
    set -m
    (
        set +me
        trap - EXIT
        # Not "function || ...": bash ignores errexit in a function that is called so.
        (set -e; "$@") 2>&1 | while IFS= read -r line; do printf '[%s] %s\n' "$name" "$line"; done
        echo "${PIPESTATUS[0]}" >"$work/$name.ended"
        mv "$work/$name.ended" "$work/$name.status"
    ) &
    running[$name]=$!
    set +m
}

# wait_for returns when the named job has succeeded, and ends the build when any job has failed.
wait_for() {
    local name alive
    while [[ -n ${running[$1]:-} ]]; do
        for name in "${!running[@]}"; do
            alive=yes
            kill -0 "${running[$name]}" 2>/dev/null || alive=no
            if [[ -e $work/$name.status ]]; then
                [[ $(<"$work/$name.status") == 0 ]] || fail "the $name job failed: its lines above, which begin with [$name], say why"
                unset "running[$name]"
            elif [[ $alive == no ]]; then
                fail "the $name job was killed: run the build again, with more memory if the kernel's log speaks of it"
            fi
        done
        sleep 0.2
    done
}

clean_up() {
    local job
    for job in "${running[@]}"; do
        kill -- "-$job" 2>/dev/null || true
        wait "$job" 2>/dev/null || true
    done
    [[ -z $container ]] || docker rm -f -v "$container" >/dev/null || true
    docker image rm "$RECIPE_IMAGE-base" >/dev/null 2>&1 || true
    rm -rf "$work"
}

# --- root file system -------------------------------------------------------------------------------------------------

make_rootfs() {
    local options=() sources=() kind
    (cd "$recipe/src/kind" && go mod download sigs.k8s.io/kind)
    kind=$(cd "$recipe/src/kind" && go list -m -f '{{.Dir}}' sigs.k8s.io/kind)
    read_apt_settings
    KIND_FILES=$kind/images/base/files RECIPE=$recipe mmdebstrap \
        --variant=essential --architectures="$RECIPE_ARCH" --include="$(IFS=,; echo "${packages[*]}")" \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        "${options[@]}" --customize-hook="$recipe/customize-rootfs.sh \"\$1\"" \
        "$suite" "$work/node.tar" "${sources[@]}"
}

# read_apt_settings takes what this machine's apt needs to reach Debian: its sources for the suite where it has them (else
# mmdebstrap's own default holds), its proxies and its checks, and its credentials.
read_apt_settings() {
    local file setting
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        if [[ -f $file ]] && grep -Eq "^[^#]*[[:space:]]$suite([[:space:]]|\$)" "$file" && grep -Eq '^[^#]*[[:space:]]main([[:space:]]|$)' "$file"; then
            sources+=("$file")
        fi
    done
    while IFS= read -r setting; do
        options+=("--aptopt=$setting")
    done < <(apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https|Check-Valid-Until|Check-Date|Retries)[: ]' | grep -v ' "";$')
    if [[ -n $(ls -A /etc/apt/auth.conf.d 2>/dev/null) ]]; then
        options+=(--setup-hook='copy-in /etc/apt/auth.conf.d /etc/apt')
    fi
}

# --- programs ---------------------------------------------------------------------------------------------------------

# compile MODULE SETTINGS PACKAGES...: builds programs into $work/MODULE, or takes them from the cache, if it holds what was made
# from the same sources with the same Go.
compile() {
    local module=$1 settings=$2 inputs kept packages
    shift 2
    inputs=$(cd "$recipe" && { go version; echo "$RECIPE_ARCH"; find build.sh "src/$module" -type f -print0 | sort -z | xargs -0 sha256sum; } | sha256sum)
    kept=$RECIPE_CACHE/$module-${inputs:0:16}
    if [[ -d $kept ]]; then
        echo "taken from the cache: $kept"
    else
        rm -rf "$RECIPE_CACHE/$module-"* # made from other sources, or only half
        for packages in "$@"; do
            # shellcheck disable=SC2086 # the packages of one call are several words
            go_build "$module" "$kept.partial/" "$settings" $packages
        done
        mv "$kept.partial" "$kept"
    fi
    cp -r "$kept" "$work/$module"
}

# go_build spends as little as it can: no debug information (stripping it in the linker alone leaves the work to the compiler),
# no garbage collection in compilers that stay small, and no inlining in the bulk of the code: where a cluster is
# busy, in the standard library, gRPC, golang.org's network code and etcd, it stays.
go_build() {
    local module=$1 out=$2 settings=$3
    shift 3
    cd "$recipe/src/$module"
    mkdir -p "$out"
    GOGC=off GOMEMLIMIT=2GiB GOOS=linux GOARCH=$RECIPE_ARCH CGO_ENABLED=0 GOWORK=off go build -mod=readonly -trimpath -buildvcs=false \
        -gcflags=all=-dwarf=false -gcflags='k8s.io/...=-dwarf=false -l' -gcflags='sigs.k8s.io/...=-dwarf=false -l' \
        -gcflags='github.com/...=-dwarf=false -l' -ldflags "-s -w $settings" -o "$out" "$@"
}

# fetch_kubernetes_modules downloads during containerd's compilation what would hold up the next one.
fetch_kubernetes_modules() {
    local package
    cd "$recipe/src/kubernetes"
    for package in "${kubernetes_programs[@]}"; do
        GOOS=linux GOARCH=$RECIPE_ARCH CGO_ENABLED=0 GOWORK=off go list -mod=readonly -deps "$package" >/dev/null
    done
}

compile_containerd() {
    compile containerd "-X github.com/containerd/containerd/v2/version.Version=$1" "${containerd_programs[@]}"
    mv "$work"/containerd/containerd* "$work/node/usr/local/bin/"
    ln -s containerd "$work/node/usr/local/bin/ctr"
    mv "$work"/containerd/* "$work/node/opt/cni/bin/"
}

compile_kubernetes() {
    local version=$1 numbers settings="" package name
    IFS=. read -ra numbers <<<"${version#v}"
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        settings+=" -X $package.gitVersion=$version -X $package.gitMajor=${numbers[0]} -X $package.gitMinor=${numbers[1]} -X $package.gitTreeState=clean"
    done
    compile kubernetes "$settings" "${kubernetes_programs[@]}"
    mv "$work/kubernetes/kubernetes" "$work/node/usr/bin/"
    for name in kubelet kubeadm kubectl; do
        ln -s kubernetes "$work/node/usr/bin/$name"
    done
    # It has no place in the node itself: populate-node.sh moves it into an image.
    mv "$work/kubernetes/local-path-provisioner" "$work/node/kind/"
}

# --- image ------------------------------------------------------------------------------------------------------------

import_node_base() {
    # Without the folders: the archive has them already, and docker import refuses a second entry.
    find "$work/node" -not -type d -printf '%P\0' | sed -z 's,^,./,' |
        tar --append --file "$work/node.tar" --owner=0 --group=0 --numeric-owner --mode='u=rwX,go=rX' -C "$work/node" --null --files-from -
    docker import \
        --change 'ENV container=docker PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$work/node.tar" "$RECIPE_IMAGE-base" >/dev/null || fail "docker could not import the root file system: look at the disk space of its engine"
    rm "$work/node.tar"
}

populate_node() {
    # What is written to a mount is no part of the commit; the stop signal is, and can be set in no other way than here.
    container=$(docker run --detach --security-opt seccomp=unconfined --network none --tmpfs /run --tmpfs /tmp:exec --stop-signal SIGRTMIN+3 \
        --entrypoint sleep "$RECIPE_IMAGE-base" infinity)
    docker exec --interactive "$container" bash -s "$1" <"$recipe/populate-node.sh" ||
        fail "populate-node.sh failed in the node's base image: its lines above say why"
}

commit_node() {
    docker kill "$container" >/dev/null
    docker commit --change 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' --change 'CMD []' "$container" "$RECIPE_IMAGE" >/dev/null
}

main
