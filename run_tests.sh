#!/usr/bin/env bash
# Every test of the project: one process, the scripts as subprocesses, and message passing on 1, 2, 3, 4 and 8 ranks.
set -euo pipefail

usage() {
  cat <<'EOF'
usage: ./run_tests.sh [--slow] [--only PART]... [--no-setup] [-- PYTEST_OPTION...]

Sets up .venv if needed (scripts/setup.sh), then runs all parts, even if one fails:

  unit     the mathematics, in one process
  golden   trajectories that change only on purpose (rewritten with WRITE_GOLDEN=1)
  smoke    the scripts as users start them: records, determinism, resumption, faults, bad input
  mpi      tests/mpi under mpirun on 1, 2, 3, 4 and 8 ranks

  --slow       also the tests marked slow: the full matrix of faults, the smoke presets to their end, a step of the
               paper preset (4 GB of memory, and ten minutes, for the last). Without it everything takes 15 to 25
               minutes on 2 cores.
  --only PART  only this part (may be given several times)
  --no-setup   use .venv as it is
  --           what follows goes to every pytest, e.g. -- -k resume -x

Exit code 0 if everything passed, 1 if something failed, 2 for a wrong option.
EOF
}

slow=no setup=yes
only=() extra=()
while (($#)); do
  case $1 in
    --slow) slow=yes ;;
    --no-setup) setup=no ;;
    --only)
      case ${2-} in
        unit | golden | smoke | mpi) only+=("$2") ;;
        *) printf 'run_tests.sh: --only needs unit, golden, smoke or mpi; see --help\n' >&2; exit 2 ;;
      esac
      shift
      ;;
    --) shift; extra=("$@"); break ;;
    -h | --help) usage; exit 0 ;;
    *) printf 'run_tests.sh: unknown option %s; see --help\n' "$1" >&2; exit 2 ;;
  esac
  shift
done

cd "$(dirname "${BASH_SOURCE[0]}")"
exec </dev/null
if [[ $setup == yes ]]; then scripts/setup.sh; fi
# shellcheck source=/dev/null
source .venv/bin/activate
if [[ $(id -u) == 0 ]]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
export PYTHONUNBUFFERED=1 PYTHONFAULTHANDLER=1
unset ECOSPHERE_FAULT

options=(-p no:cacheprovider --durations=5)
if [[ $slow == no ]]; then options+=(-m "not slow"); fi
options+=(${extra[@]+"${extra[@]}"})

log=$(mktemp)
trap 'rm -f "$log"' EXIT
summary=() failed=0

part() { # NAME COMMAND...: runs it, keeps pytest's closing line for the summary
  local name=$1 start=$SECONDS code=0 word=ok closing
  shift
  printf '\n== %s: %s\n' "$name" "$*"
  "$@" 2>&1 | tee "$log" || code=$?
  closing=$(grep -aE '^=+ .* in [0-9.]+s.* =+$' "$log" | tail -n 1 || true)
  # 5: no tests were selected, e.g. by -k.
  if ((code == 5)) && ((${#extra[@]})); then code=0; fi
  if ((code)); then failed=1 word="FAILED (exit code $code)"; fi
  summary+=("$(printf '%-7s %4d s  %-7s %s' "$name" $((SECONDS - start)) "$word" "$closing")")
}

wanted() { # PART
  [[ ${#only[@]} == 0 || " ${only[*]} " == *" $1 "* ]]
}

# Two pytest processes for parts without timing tests; MPI parts have several processes of their own.
beside=(-n 2 --dist loadfile) # files share runs
if wanted unit; then part unit python -m pytest tests/unit "${beside[@]}" "${options[@]}"; fi
if wanted golden; then part golden python -m pytest tests/golden "${options[@]}"; fi
if wanted smoke; then
  # One thread per rank: waiting threads of two jobs would compete for the cores.
  part smoke env OMP_NUM_THREADS=1 python -m pytest tests/smoke --ignore tests/smoke/test_faults.py "${beside[@]}" "${options[@]}"
  part faults python -m pytest tests/smoke/test_faults.py "${options[@]}"
fi
if wanted mpi; then
  for ranks in 1 2 3 4 8; do
    part "mpi-$ranks" mpirun --oversubscribe --bind-to none -np "$ranks" \
      python -m pytest tests/mpi --color=no "${options[@]}"
  done
fi

printf '\n%s\n' "---------- summary ($((SECONDS / 60)) min $((SECONDS % 60)) s)"
printf '%s\n' "${summary[@]}"
exit "$failed"
