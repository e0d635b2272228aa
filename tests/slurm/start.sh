#!/usr/bin/env bash
# Start a throw-away single-host Slurm cluster on 127.0.0.1: munged, mariadbd, slurmdbd, slurmctld
# and three slurmd's (cpu1, cpu2, gpu1) of one Debian machine, without systemd.
#
#   tests/slurm/install.sh          the Debian packages, once, as root
#   tests/slurm/start.sh [DIR]      DIR (default ./.slurm-test) gets every file of the cluster
#   . DIR/env.sh                    exports SLURM_CONF: that is all that sbatch, squeue, sacct, snakemake need
#   tests/slurm/stop.sh  [DIR]
#
# Settings by environment: PORT_BASE (default 16800), CPUS (per node, 4), MEM_MB (per node, 4000)
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
DIR=$(mkdir -p "${1:-.slurm-test}" && cd "${1:-.slurm-test}" && pwd)
B=${PORT_BASE:-16800} CPUS=${CPUS:-4} MEM_MB=${MEM_MB:-4000}
HERE=$(cd "$(dirname "$0")" && pwd)
ME=$(id -un)

for c in munged slurmctld slurmd sbatch srun sinfo slurmdbd mariadbd mariadb-install-db sacctmgr; do
  command -v "$c" >/dev/null || { echo "start.sh: $c is not installed; run tests/slurm/install.sh" >&2; exit 3; }
done
if [ -e "$DIR/run/slurmctld.pid" ] && kill -0 "$(cat "$DIR/run/slurmctld.pid")" 2>/dev/null; then
  echo "start.sh: a cluster already runs in $DIR (use stop.sh)" >&2; exit 4
fi
if [ ${#DIR} -gt 80 ]; then echo "start.sh: $DIR is too long for a unix socket path" >&2; exit 5; fi

# until_ok S COMMAND...: repeat COMMAND until it succeeds, at most S seconds
until_ok() { local end=$((SECONDS+$1)); shift; until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done; }
die() { echo "start.sh: $1; see $DIR/log" >&2; tail -n 5 "$DIR"/log/*.log >&2 || true; "$HERE/stop.sh" "$DIR" || true; exit 1; }

mkdir -p "$DIR"/{run,log,state,spool,etc}
chmod 755 "$DIR" "$DIR/run"

# --- munge: own key, own socket. --force: lets the socket lie below a 0700 directory (pytest's tmp_path) ---
[ -s "$DIR/etc/munge.key" ] || (umask 077; head -c 128 /dev/urandom > "$DIR/etc/munge.key")
chmod 400 "$DIR/etc/munge.key"
munged --force --key-file="$DIR/etc/munge.key" --socket="$DIR/run/munge.sock" --pid-file="$DIR/run/munged.pid" \
       --log-file="$DIR/log/munged.log" --seed-file="$DIR/run/munge.seed" --num-threads=4 2>>"$DIR/log/munged.err" || die "munged failed"

# --- slurm.conf, gres.conf, cgroup.conf ---
sed -e "s|@DIR@|$DIR|g" -e "s|@USER@|$ME|g" -e "s|@CPUS@|$CPUS|g" -e "s|@MEM@|$MEM_MB|g" \
    -e "s|@P0@|$((B))|g" -e "s|@P1@|$((B+1))|g" -e "s|@P2@|$((B+2))|g" -e "s|@P3@|$((B+3))|g" \
    -e "s|@PDBD@|$((B+4))|g" -e "s|@SRUN@|$((B+100))-$((B+199))|g" "$HERE/slurm.conf.in" > "$DIR/etc/slurm.conf"
cp "$HERE/gres.conf" "$HERE/cgroup.conf" "$DIR/etc/"
printf 'export SLURM_CONF=%q\n' "$DIR/etc/slurm.conf" > "$DIR/env.sh"
export SLURM_CONF="$DIR/etc/slurm.conf"
# snakemake-executor-plugin-slurm-jobstep (0.6.1) calls srun with every SLURM_* variable removed but a few, SLURM_CONF
# among the removed: srun then has only the default place to look at, so point that here. Without root, a wrapper named
# srun first on PATH does it (sbatch's --export=ALL carries PATH into the job).
if [ -w /etc/slurm ] && { [ ! -e /etc/slurm/slurm.conf ] || [ -L /etc/slurm/slurm.conf ]; }; then
  ln -sfn "$DIR/etc/slurm.conf" /etc/slurm/slurm.conf
else
  mkdir -p "$DIR/bin"; SRUN=$(command -v srun)
  printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$SLURM_CONF" "$SRUN" > "$DIR/bin/srun"; chmod +x "$DIR/bin/srun"
  printf 'export PATH=%q:$PATH\n' "$DIR/bin" >> "$DIR/env.sh"
fi

# --- accounting: mariadbd on 127.0.0.1 only, then slurmdbd ---
if [ ! -d "$DIR/db/mysql" ]; then
  mariadb-install-db --no-defaults --auth-root-authentication-method=normal --skip-test-db --user="$ME" \
    --datadir="$DIR/db" >"$DIR/log/mariadb-install.log" 2>&1 || die "mariadb-install-db failed"
fi
mariadbd --no-defaults --user="$ME" --datadir="$DIR/db" --socket="$DIR/run/db.sock" --pid-file="$DIR/run/mariadbd.pid" \
  --bind-address=127.0.0.1 --port=$((B+5)) --log-error="$DIR/log/mariadbd.log" --skip-name-resolve \
  --innodb-buffer-pool-size=64M --innodb-log-file-size=16M --innodb-lock-wait-timeout=900 \
  --innodb-flush-log-at-trx-commit=0 --performance-schema=OFF </dev/null >/dev/null 2>&1 &
until_ok 60 mariadb-admin --no-defaults -uroot -S "$DIR/run/db.sock" ping || die "mariadbd failed"
mariadb --no-defaults -uroot -S "$DIR/run/db.sock" -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
  CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm'; GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';"
(umask 077; sed -e "s|@DIR@|$DIR|g" -e "s|@USER@|$ME|g" -e "s|@PDBD@|$((B+4))|g" -e "s|@PDB@|$((B+5))|g" \
   "$HERE/slurmdbd.conf.in" > "$DIR/etc/slurmdbd.conf")
chmod 600 "$DIR/etc/slurmdbd.conf"
slurmdbd
until_ok 40 timeout 5 sacctmgr -n list cluster || die "slurmdbd failed"
sacctmgr -i add cluster loop >/dev/null 2>&1 || true
sacctmgr -i add account proj Cluster=loop Description=test Organization=test >/dev/null 2>&1 || true
sacctmgr -i add user "$ME" Account=proj DefaultAccount=proj >/dev/null 2>&1 || true

# --- controller, then the nodes ---
slurmctld -c
until_ok 40 timeout 5 scontrol ping || die "slurmctld failed"
for n in cpu1 cpu2 gpu1; do slurmd -N "$n"; done
ready() { [ "$(timeout 5 sinfo -h -N -t idle -o %N | sort -u | wc -l)" -eq 3 ]; }
until_ok 60 ready || die "the nodes did not become idle"
sinfo -h -N -o '%N %P %T %c %m %G'
