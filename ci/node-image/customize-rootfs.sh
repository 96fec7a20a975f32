#!/usr/bin/env bash
# Turns a fresh Debian root file system ($1) into that of a Kind node, as kind's base image does, with the files of kind's module.
set -euo pipefail

root=$1
umask 022

copy() { # copy MODE FILE...: from kind's files to the same place; the module cache keeps neither modes nor owners
    local mode=$1 file
    shift
    for file in "$@"; do
        install -D -o 0 -g 0 -m "$mode" "$KIND_FILES/$file" "$root/$file"
    done
}

cd "$KIND_FILES"
# shellcheck disable=SC2046 # the names in kind's module hold no blanks
copy 0644 $(find etc kind LICENSES -type f -not -path 'kind/bin/*')
# shellcheck disable=SC2046
copy 0755 $(find kind/bin usr/local/bin -type f)

install -D -o 0 -g 0 -m 0644 -t "$root/kind/manifests" "$RECIPE"/manifests/*.yaml
install -d -o 0 -g 0 "$root/etc/kubernetes/manifests" "$root/opt/cni/bin" "$root/etc/cni/net.d"

# Where the capability CAP_SYS_RESOURCE is missing, no process may lower its OOM score, and containers would not start.
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"
grep -q 'restrict_oom_score_adj = true' "$root/etc/containerd/config.toml"

# Units that make sense on a machine, but not in a container.
units=$root/usr/lib/systemd/system
rm -rf "$units"/multi-user.target.wants/* "$root"/etc/systemd/system/*.wants/* "$units"/local-fs.target.wants/* \
    "$units"/sockets.target.wants/*udev* "$units"/sockets.target.wants/*initctl* "$units"/basic.target.wants/* \
    "$units"/sysinit.target.wants/systemd-tmpfiles-setup.service
echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
ln -sf /usr/lib/systemd/systemd "$root/sbin/init"
chroot "$root" systemctl enable kubelet.service containerd.service undo-mount-hacks.service
chroot "$root" systemctl mask systemd-binfmt.service

# Nothing of the building machine stays: its mirrors, proxies and credentials, its name and its resolver.
rm -rf "$root"/etc/apt/sources.list* "$root"/etc/apt/auth.conf.d/* "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/var/log/* \
    "$root"/etc/hostname "$root"/etc/resolv.conf
