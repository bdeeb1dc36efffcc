# Dagster's Postgres for the time of a job, on this node's own disk; nothing where DAGSTER_PG_HOST names a server. Sourced, never run.
# What is lost with it is the history of runs: which tables are current is read from the lake. A history that outlives jobs, or several
# jobs in one UI: a server of your own, and DAGSTER_PG_HOST, _PORT, _USER, _PASSWORD, _DB set before sbatch.
# shellcheck shell=bash

# The folder with initdb and postgres: POSTGRES_BIN, the PATH, or where Debian and Red Hat put them.
_postgres_programs() {
    local folder
    for folder in "${POSTGRES_BIN:-}" "$(dirname "$(command -v initdb || true)")" /usr/lib/postgresql/*/bin /usr/pgsql-*/bin; do
        if [[ -x $folder/initdb && -x $folder/postgres ]]; then
            echo "$folder"
            return
        fi
    done
    return 1
}

# start_postgres ADDRESS: where nothing is set, starts one that listens there, and exports DAGSTER_PG_*. stop_postgres ends it.
start_postgres() {
    postgres_pid="" postgres_folder=""
    [[ -n ${DAGSTER_PG_HOST:-} ]] && return
    local address=$1 programs as_user=()
    programs=$(_postgres_programs) || fail "no Postgres on $(hostname): load its module, set POSTGRES_BIN to the folder of initdb and" \
        "postgres, or set DAGSTER_PG_HOST, _PORT, _USER, _PASSWORD and _DB to a server's"
    postgres_folder=$(mktemp -d "/tmp/mmret-pg-$SLURM_JOB_ID-XXXX")
    # Postgres refuses to run as root, which a job in a container may be
    if [[ $(id -u) -eq 0 ]]; then
        id postgres >/dev/null 2>&1 || fail "Postgres does not run as root, and there is no user postgres: set DAGSTER_PG_HOST"
        chown postgres "$postgres_folder"
        as_user=(setpriv --reuid=postgres "--regid=$(id -g postgres)" --clear-groups)
    fi
    DAGSTER_PG_HOST=$address DAGSTER_PG_PORT=$(free_port) DAGSTER_PG_USER=mmret DAGSTER_PG_DB=postgres
    DAGSTER_PG_PASSWORD=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
    export DAGSTER_PG_HOST DAGSTER_PG_PORT DAGSTER_PG_USER DAGSTER_PG_DB DAGSTER_PG_PASSWORD
    (umask 077 && echo "$DAGSTER_PG_PASSWORD" >"$postgres_folder/password")
    [[ ${#as_user[@]} -eq 0 ]] || chown postgres "$postgres_folder/password"
    # from a folder that its user may enter
    (cd / && "${as_user[@]}" "$programs/initdb" -D "$postgres_folder/data" -U mmret --auth=scram-sha-256 \
        --pwfile="$postgres_folder/password" --no-sync) \
        >"$MMRET_STATE/postgres.log" 2>&1 || fail "initdb failed, see $MMRET_STATE/postgres.log"
    echo "host all mmret 0.0.0.0/0 scram-sha-256" >>"$postgres_folder/data/pg_hba.conf"
    # nothing on this disk outlives the job, so nothing has to be flushed to it
    (cd / && exec "${as_user[@]}" "$programs/postgres" -D "$postgres_folder/data" -k "$postgres_folder" -p "$DAGSTER_PG_PORT" \
        -c "listen_addresses=$address" -c fsync=off -c max_connections=500) >>"$MMRET_STATE/postgres.log" 2>&1 &
    postgres_pid=$!
    for _ in $(seq 60); do
        (exec 3<>"/dev/tcp/$address/$DAGSTER_PG_PORT") 2>/dev/null && return
        kill -0 "$postgres_pid" 2>/dev/null || break
        sleep 0.5
    done
    fail "Postgres did not start, see $MMRET_STATE/postgres.log"
}

stop_postgres() {
    if [[ -n ${postgres_pid:-} ]]; then
        kill -INT "$postgres_pid" 2>/dev/null || true
        wait "$postgres_pid" 2>/dev/null || true
    fi
    [[ -z ${postgres_folder:-} ]] || rm -rf "$postgres_folder"
}
