#!/bin/sh
# An OCI runtime for machines whose capability bounding set is incomplete.
#
# Docker asks for every capability in a privileged container; runc refuses one that the kernel will not
# give ("unable to apply caps: operation not permitted"). This wrapper takes the missing ones out of the
# container's (create, run) or process's (exec) specification and then becomes runc. Written by
# `cargo xtask doctor --fix`; DROP is what this machine's bounding set lacks.
set -eu
DROP='@DROP@'

spec='' filter='' verb='' previous=''
for argument in "$@"; do
    case "$previous" in
        --bundle | -b) bundle=$argument ;;
        --process | -p) process=$argument ;;
    esac
    case "$argument" in
        --bundle=*) bundle=${argument#*=} ;;
        --process=*) process=${argument#*=} ;;
        create | run | exec | restore) [ -n "$verb" ] || verb=$argument ;;
    esac
    previous=$argument
done
case "$verb" in
    create | run | restore) spec=${bundle:-.}/config.json filter='.process.capabilities' ;;
    exec) spec=${process:-} filter='.capabilities' ;;
esac
if [ -n "$spec" ] && [ -f "$spec" ]; then
    # Rewritten in place: dockerd reads the file again by the same path.
    reduced=$(jq -c --argjson drop "$DROP" "if $filter then $filter |= map_values(. - \$drop) else . end" "$spec")
    printf '%s' "$reduced" >"$spec"
fi
exec runc "$@"
