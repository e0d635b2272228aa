#!/usr/bin/env bash
# Stop the cluster that start.sh started in DIR: its jobs first, then each daemon, by pid file. Safe to repeat.
#   tests/slurm/stop.sh [DIR]     KEEP=0 also removes DIR
set -uo pipefail
export PATH=$PATH:/usr/sbin:/sbin LC_ALL=C
DIR=$(cd "${1:-.slurm-test}" 2>/dev/null && pwd) || { echo "stop.sh: nothing at ${1:-.slurm-test}"; exit 0; }
export SLURM_CONF=$DIR/etc/slurm.conf
rc=0
pid_of() { # the pid in a pid file, if that process is still the daemon we started
  local p; p=$(cat "$1" 2>/dev/null) || return 1
  [ -n "$p" ] && tr '\0' ' ' < "/proc/$p/cmdline" 2>/dev/null | grep -q -- "$2" && echo "$p"; }
stop() { # pid file, word in its command line
  local p n=100; p=$(pid_of "$1" "$2") || { rm -f "$1"; return 0; }
  kill -TERM "$p" 2>/dev/null
  while kill -0 "$p" 2>/dev/null && [ "$(cut -d' ' -f3 "/proc/$p/stat" 2>/dev/null)" != Z ]; do
    n=$((n-1)); if [ $n -le 0 ]; then echo "stop.sh: $2 ($p) had to be killed" >&2; kill -KILL "$p"; rc=1; break; fi; sleep 0.1
  done
  rm -f "$1"; }
if pid_of "$DIR/run/slurmctld.pid" slurmctld >/dev/null; then
  timeout 10 scancel -Q --user="$(id -un)" 2>/dev/null; sleep 0.3
  timeout 10 scancel -Q --full --signal=KILL --user="$(id -un)" 2>/dev/null
  n=50; while [ $n -gt 0 ] && [ -n "$(timeout 5 squeue -h 2>/dev/null)" ]; do n=$((n-1)); sleep 0.1; done
fi
for f in "$DIR"/run/slurmd-*.pid; do [ -e "$f" ] && stop "$f" slurmd; done
stop "$DIR/run/slurmctld.pid" slurmctld
stop "$DIR/run/slurmdbd.pid" slurmdbd
stop "$DIR/run/mariadbd.pid" mariadbd
stop "$DIR/run/munged.pid" munged
[ "$(readlink /etc/slurm/slurm.conf 2>/dev/null)" = "$DIR/etc/slurm.conf" ] && rm -f /etc/slurm/slurm.conf
[ "${KEEP:-1}" = 0 ] && rm -rf "$DIR"
exit $rc
