#!/bin/sh
# An OCI runtime for machines whose capability bounding set is incomplete.
#
# Docker asks for every capability in a privileged container; runc refuses one that the kernel will not
# give ("unable to apply caps: operation not permitted"). This wrapper takes the missing ones out of the
# container's (create, run) or process's (exec) specification and then becomes runc. Written by
# `cargo xtask doctor --fix` and kept up to date by set-up; DROP is what this machine's bounding set lacks.
set -eu
DROP='@DROP@'

spec='' verb='' previous=''
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
    create | run | restore) spec=${bundle:-.}/config.json ;;
    exec) spec=${process:-} ;;
esac
if [ -n "$spec" ] && [ -f "$spec" ]; then
    # Each exec waits for this, so it is one small program. Only the object `capabilities` has this form: a quote within
    # a string of JSON has a backslash before it, so no argument, variable or annotation can look like its name, and it
    # holds nothing but lists of names. Rewritten in place: dockerd reads the file again by the same path.
    set_of='"capabilities"[[:space:]]*:[[:space:]]*[{][^{}]*'
    reduced=$(sed -E -z ":again
        s/($set_of),[[:space:]]*\"($DROP)\"/\\1/; t again
        s/($set_of)\"($DROP)\"[[:space:]]*,?/\\1/; t again" "$spec")
    printf '%s' "$reduced" >"$spec"
fi
exec runc "$@"
