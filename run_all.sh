#!/usr/bin/env bash
# Every table and figure again: sets up .venv if needed, then `python -m experiments` (see --help) does the rest.
set -euo pipefail
cd "$(dirname "$0")"

python=${PYTHON:-python3}
case " $* " in *" --help "* | *" -h "*) exec "$python" -m experiments.options --help ;; esac
"$python" -m experiments.options "$@" # mistakes are named before anything is installed
scripts/setup.sh
# shellcheck disable=SC1091
. .venv/bin/activate
[ "$(id -u)" -ne 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
exec python -m experiments "$@"
