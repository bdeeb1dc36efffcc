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

# start_postgres FOLDER ADDRESS: exports DAGSTER_PG_*, sets postgres_pid.
start_postgres() {
    postgres_pid=""
    [[ -n ${DAGSTER_PG_HOST:-} ]] && return
    local folder=$1 address=$2 programs
    programs=$(_postgres_programs) || fail "no Postgres on $(hostname): load its module, set POSTGRES_BIN to the folder of initdb and" \
        "postgres, or set DAGSTER_PG_HOST, _PORT, _USER, _PASSWORD and _DB to a server's"
    [[ $(id -u) -ne 0 ]] || fail "Postgres does not run as root: submit as another user, or set DAGSTER_PG_HOST"
    mkdir -p "$folder"
    DAGSTER_PG_HOST=$address DAGSTER_PG_PORT=$(free_port) DAGSTER_PG_USER=mmret DAGSTER_PG_DB=postgres
    DAGSTER_PG_PASSWORD=$(head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n')
    export DAGSTER_PG_HOST DAGSTER_PG_PORT DAGSTER_PG_USER DAGSTER_PG_DB DAGSTER_PG_PASSWORD
    "$programs/initdb" -D "$folder/data" -U mmret --auth=scram-sha-256 --pwfile=<(echo "$DAGSTER_PG_PASSWORD") --no-sync \
        >"$MMRET_STATE/postgres.log" 2>&1 || fail "initdb failed, see $MMRET_STATE/postgres.log"
    echo "host all mmret 0.0.0.0/0 scram-sha-256" >>"$folder/data/pg_hba.conf"
    # nothing on this disk outlives the job, so nothing has to be flushed to it
    "$programs/postgres" -D "$folder/data" -k "$folder" -c "listen_addresses=$address" -p "$DAGSTER_PG_PORT" \
        -c fsync=off -c max_connections=500 >>"$MMRET_STATE/postgres.log" 2>&1 &
    postgres_pid=$!
    for _ in $(seq 60); do
        (exec 3<>"/dev/tcp/$address/$DAGSTER_PG_PORT") 2>/dev/null && return
        kill -0 "$postgres_pid" 2>/dev/null || break
        sleep 0.5
    done
    fail "Postgres did not start, see $MMRET_STATE/postgres.log"
}
