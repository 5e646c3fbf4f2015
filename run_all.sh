#!/usr/bin/env bash
# Every table and figure again: sets up .venv if needed, then `python -m experiments` (see --help) does the rest.
set -euo pipefail
cd "$(dirname "$0")"

case " $* " in *" --help "* | *" -h "*) ;; *)
    [ "${EOA_DATA-unset}" ] || { echo "error: EOA_DATA is empty: name the folder of the data sets, or unset it" >&2; exit 2; }
    ;;
esac
scripts/setup.sh
# shellcheck disable=SC1091
. .venv/bin/activate
[ "$(id -u)" -ne 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
exec python -m experiments "$@"
