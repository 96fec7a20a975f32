#!/usr/bin/env bash
# Starts PostgreSQL as the official image does: an empty PGDATA first gets its database, its user, and what /docker-entrypoint-initdb.d holds.
set -euo pipefail

fail() {
    echo "docker-entrypoint.sh: $1" >&2
    exit 1
}

# Puts into variable $1 its own value, or the contents of the file that $1_FILE names (how secrets are mounted), or $2.
read_setting() {
    local name=$1 file_name=$1_FILE
    local value=${!name:-} file=${!file_name:-}
    [[ -z $value || -z $file ]] || fail "both $name and $file_name are set: keep one of them"
    if [[ -n $file ]]; then
        value=$(<"$file")
    fi
    printf -v "$name" '%s' "${value:-$2}"
    unset "$file_name"
}

only_asks() {
    local argument
    for argument in "$@"; do
        case $argument in
            -\? | --help | --describe-config | -V | --version | -C) return 0 ;;
        esac
    done
    return 1
}

sql() {
    psql --no-psqlrc --no-password --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" "$@"
}

run_init_files() {
    local file
    for file in "$@"; do
        echo "running $file"
        case $file in
            *.sh)
                if [[ -x $file ]]; then
                    "$file"
                else # as the files of a mounted ConfigMap often are
                    # shellcheck disable=SC1090
                    . "$file"
                fi
                ;;
            *.sql) sql --file "$file" ;;
            *.sql.gz) gunzip --stdout "$file" | sql ;;
            *.sql.xz) xzcat "$file" | sql ;;
            *.sql.zst) zstd --decompress --stdout "$file" | sql ;;
            *) echo "ignoring $file: neither a script nor SQL" ;;
        esac
    done
}

make_cluster() {
    local init=(initdb "--username=$POSTGRES_USER")
    if [[ -n ${POSTGRES_INITDB_WALDIR:-} ]]; then
        init+=("--waldir=$POSTGRES_INITDB_WALDIR")
    fi
    # The programs that work without a server want a name for their user, and the user that a chart chose has none.
    local named=() names=
    if ! getent passwd "$(id -u)" >/dev/null; then
        names=$(mktemp -d)
        echo "postgres:x:$(id -u):$(id -g)::$PGDATA:/bin/false" >"$names/passwd"
        echo "postgres:x:$(id -g):" >"$names/group"
        named=(env "LD_PRELOAD=$(echo /usr/lib/*/libnss_wrapper.so)" "NSS_WRAPPER_PASSWD=$names/passwd" "NSS_WRAPPER_GROUP=$names/group")
    fi
    # The variable may hold several arguments with quotes among them.
    eval "init+=(${POSTGRES_INITDB_ARGS:-})"
    "${named[@]}" "${init[@]}" --pgdata="$PGDATA" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
    printf '\nhost all all all %s\n' "$POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"

    if [[ $POSTGRES_DB != postgres ]]; then
        # Much sooner done than by starting a server and stopping it again.
        "${named[@]}" postgres --single -j -D "$PGDATA" postgres <<<"CREATE DATABASE \"${POSTGRES_DB//\"/\"\"}\"" >/dev/null
    fi

    if [[ -n $names ]]; then
        rm -r "$names"
    fi

    local files=(/docker-entrypoint-initdb.d/*)
    if [[ -e ${files[0]} ]]; then
        # Nobody but the files may reach this server: others would take it for the one that stays.
        local options
        printf -v options '%q ' "$@" -c listen_addresses=
        PGUSER=$POSTGRES_USER pg_ctl --pgdata "$PGDATA" --wait --options "$options" start
        run_init_files "${files[@]}"
        PGUSER=$POSTGRES_USER pg_ctl --pgdata "$PGDATA" --wait --mode fast stop
    fi
    echo "the database is made: starting PostgreSQL"
}

main() {
    if [[ ${1:-} == -* ]]; then
        set -- postgres "$@"
    fi
    if [[ ${1:-} != postgres ]] || only_asks "$@"; then
        exec "$@"
    fi

    mkdir -p "$PGDATA"
    if [[ $(id -u) == 0 ]]; then
        # PostgreSQL refuses to run as root.
        chmod 700 "$PGDATA"
        find "$PGDATA" ! -user postgres -exec chown postgres: {} +
        mkdir -p /var/run/postgresql
        chown postgres: /var/run/postgresql
        chmod 3777 /var/run/postgresql
        if [[ -n ${POSTGRES_INITDB_WALDIR:-} ]]; then
            mkdir -p "$POSTGRES_INITDB_WALDIR"
            chmod 700 "$POSTGRES_INITDB_WALDIR"
            find "$POSTGRES_INITDB_WALDIR" ! -user postgres -exec chown postgres: {} +
        fi
        HOME=/var/lib/postgresql exec setpriv --reuid postgres --regid postgres --init-groups "${BASH_SOURCE[0]}" "$@"
    fi
    # A mounted volume may belong to somebody else and yet be right: PostgreSQL itself judges it.
    chmod 700 "$PGDATA" 2>/dev/null || true

    if [[ ! -s $PGDATA/PG_VERSION ]]; then
        read_setting POSTGRES_PASSWORD ''
        read_setting POSTGRES_USER postgres
        read_setting POSTGRES_DB "$POSTGRES_USER"
        read_setting POSTGRES_INITDB_ARGS ''
        : "${POSTGRES_HOST_AUTH_METHOD:=scram-sha-256}"
        if [[ -z $POSTGRES_PASSWORD && $POSTGRES_HOST_AUTH_METHOD != trust ]]; then
            fail "no password for the user $POSTGRES_USER: set POSTGRES_PASSWORD, or POSTGRES_HOST_AUTH_METHOD=trust to let everybody in"
        fi
        export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD} POSTGRES_PASSWORD POSTGRES_USER POSTGRES_DB
        make_cluster "${@:2}"
        unset PGPASSWORD
    fi
    exec "$@"
}

main "$@"
