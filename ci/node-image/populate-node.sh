#!/usr/bin/env bash
# Runs inside the node's base image: makes the images of the cluster's components from the node's own files and brings them into
# its containerd. $1 is the Kubernetes version.
set -Eeuo pipefail

version=$1
blobs=/tmp/oci/blobs/sha256
trap 'echo "populate-node.sh: this command failed: $BASH_COMMAND" >&2' ERR

main() {
    mkdir -p "$blobs"
    echo "$version" >/kind/version
    ctr oci spec | jq '.hooks.createContainer += [{path: "/kind/bin/mount-product-files.sh"}] | del(.process.rlimits)' >/etc/containerd/cri-base.json

    make_base_layer
    make_kubernetes_layer
    make_storage_layer
    local images image program pause
    images=$(kubeadm config images list --kubernetes-version "$version")
    for image in $images; do
        program=${image##*/}
        program=${program%:*}
        [[ $program == pause ]] || add_image "$image" "[\"/usr/local/bin/$program\"]" base kubernetes
    done
    # containerd's setting decides which pause is used, and the one in kind's files may lag behind kubeadm's.
    pause=$(sed -n 's/.*sandbox_image = "\(.*\)"/\1/p' /etc/containerd/config.toml)
    add_image "${pause:?containerd names no sandbox image}" '["/usr/bin/catatonit", "-P"]' base
    add_image k8s-test.local/pod-network:builtin '["/usr/local/bin/pod-network"]' base kubernetes
    add_image k8s-test.local/local-path-provisioner:builtin '["/usr/local/bin/local-path-provisioner"]' base storage
    add_image k8s-test.local/storage-helper:builtin '["/bin/sh"]' base
    import_images
}

# add_layer NAME: packs /tmp/layers/NAME as a blob and keeps its two digests, of the blob and of what is in it.
add_layer() {
    local folder=/tmp/layers/$1 digest
    tar --create --sort=name --mtime=@0 --numeric-owner --owner=0 --group=0 -C "$folder" . >"$folder.tar"
    sha256sum "$folder.tar" | cut -d' ' -f1 >"$folder.diff"
    pigz -3 --no-time "$folder.tar"
    digest=$(sha256sum "$folder.tar.gz" | cut -d' ' -f1)
    mv "$folder.tar.gz" "$blobs/$digest"
    echo "$digest" >"$folder.blob"
    rm -rf "$folder"
}

# The base layer: what kube-proxy and the pod network call (iptables, nft), with the libraries it needs; a shell and its tools;
# and catatonit, which is what a pod's sandbox runs.
make_base_layer() {
    local folder=/tmp/layers/base programs applet
    mkdir -p "$folder"/{usr/bin,bin,sbin,tmp,run,etc,proc,sys,dev}
    chmod 1777 "$folder/tmp"
    programs=(/usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi /usr/sbin/nft /usr/bin/catatonit /usr/bin/busybox /usr/lib/*/xtables/*.so)
    printf '%s\n' "${programs[@]}" >/tmp/base-files
    # ldd answers with status 1 for the static ones.
    { ldd "${programs[@]}" 2>/dev/null || true; } | grep -o '/lib[^ ]*' | grep -v ':$' | sort -u >>/tmp/base-files
    tar --create --dereference --hard-dereference --files-from /tmp/base-files 2>/dev/null | tar --extract -C "$folder"
    for applet in $(busybox --list); do
        [[ -e $folder/bin/$applet ]] || ln -s /usr/bin/busybox "$folder/bin/$applet"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$folder/etc/passwd"
    add_layer base
}

make_kubernetes_layer() {
    local folder=/tmp/layers/kubernetes name
    mkdir -p "$folder/usr/local/bin"
    cp /usr/bin/kubernetes "$folder/usr/local/bin/"
    for name in kube-apiserver kube-controller-manager kube-scheduler kube-proxy etcd coredns pod-network; do
        ln -s kubernetes "$folder/usr/local/bin/$name"
    done
    add_layer kubernetes
}

make_storage_layer() {
    mkdir -p /tmp/layers/storage/usr/local/bin
    mv /kind/local-path-provisioner /tmp/layers/storage/usr/local/bin/
    add_layer storage
}

# put_blob: stores standard input as a blob and prints its descriptor without a media type.
put_blob() {
    local digest
    cat >/tmp/blob
    digest=$(sha256sum /tmp/blob | cut -d' ' -f1)
    jq -n --arg digest "sha256:$digest" --argjson size "$(stat -c %s /tmp/blob)" '{digest: $digest, size: $size}'
    mv /tmp/blob "$blobs/$digest"
}

# add_image REFERENCE ENTRYPOINT LAYER...
add_image() {
    local reference=$1 entrypoint=$2 layer config layers diffs
    shift 2
    layers=$(for layer in "$@"; do
        jq -n --arg digest "$(cat "/tmp/layers/$layer.blob")" --argjson size "$(stat -c %s "$blobs/$(cat "/tmp/layers/$layer.blob")")" \
            '{mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: ("sha256:" + $digest), size: $size}'
    done | jq -s .)
    diffs=$(for layer in "$@"; do jq -R '"sha256:" + .' "/tmp/layers/$layer.diff"; done | jq -s .)
    config=$(jq -n --argjson entrypoint "$entrypoint" --argjson diffs "$diffs" --arg architecture "$(dpkg --print-architecture)" '{
        architecture: $architecture, os: "linux", rootfs: {type: "layers", diff_ids: $diffs},
        config: {Entrypoint: $entrypoint, Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}}' | put_blob)
    jq -n --argjson config "$config" --argjson layers "$layers" '{
        schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
        config: ($config + {mediaType: "application/vnd.oci.image.config.v1+json"}), layers: $layers}' | put_blob |
        jq --arg name "$reference" '. + {mediaType: "application/vnd.oci.image.manifest.v1+json", annotations: {"io.containerd.image.name": $name}}' \
            >>/tmp/manifests
}

import_images() {
    echo '{"imageLayoutVersion": "1.0.0"}' >/tmp/oci/oci-layout
    jq -s '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: .}' /tmp/manifests >/tmp/oci/index.json

    containerd >/tmp/containerd.log 2>&1 &
    local containerd=$! attempt
    for attempt in {1..100}; do
        if [[ -S /run/containerd/containerd.sock ]] && ctr version >/dev/null 2>&1; then
            break
        fi
        if ((attempt == 100)) || ! kill -0 "$containerd" 2>/dev/null; then
            cat /tmp/containerd.log >&2
            echo "containerd did not start in the node's base image: its log is above" >&2
            exit 1
        fi
        sleep 0.1
    done
    tar --create -C /tmp/oci . | ctr --namespace=k8s.io images import --label=io.cri-containerd.pinned=pinned --all-platforms --no-unpack - >/dev/null
    ctr --namespace=k8s.io images list -q
    kill "$containerd"
    wait "$containerd" || true
}

main
