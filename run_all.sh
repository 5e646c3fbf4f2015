#!/usr/bin/env bash
# Every table and figure again. `./run_all.sh --help` says what the profiles are.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
    cat <<'TEXT'
usage: ./run_all.sh [--profile smoke|cpu|gpu|paper] [--only NAME ...] [--seeds K] [--fresh]

Sets up .venv if needed, runs the experiments of a profile one after another, then makes results/PROFILE/tables,
results/PROFILE/figures and results/PROFILE/report.html from their records.

  smoke   (default) handwritten digits that ship with scikit-learn; minutes on two cores, no download, always from scratch
  cpu     CIFAR-10 and CIFAR-100 at a size two cores can do overnight
  gpu     the published setting (WRN-22-8, the sources' "16-8", 200 epochs) on the GPUs of one node, one seed
  paper   the same for 5 seeds, and the reference scripts' behaviour beside it

  --only NAME...  run only the experiments named; the names are printed before each run
  --seeds K     seeds 0 .. K-1 of every experiment
  --fresh       forget the records of the experiments that are run; without it, finished ones are kept and unfinished
                ones resumed (smoke is always fresh)

Data sets are looked for in $EOA_DATA (default: data/) and downloaded there if missing. $RANKS is the number of workers of
the ecosphere (default 8).
TEXT
}

profile=smoke seeds="" fresh=no only=()
while [ $# -gt 0 ]; do
    case $1 in
        --profile | --seeds)
            [ $# -gt 1 ] || { echo "error: $1 needs a value (--help lists all)" >&2; exit 2; }
            printf -v "${1#--}" %s "$2"; shift 2 ;;
        --fresh) fresh=yes; shift ;;
        --only)
            shift
            [ $# -gt 0 ] && [ "${1#--}" = "$1" ] || { echo "error: --only needs the name of an experiment" >&2; exit 2; }
            while [ $# -gt 0 ] && [ "${1#--}" = "$1" ]; do only+=("$1"); shift; done ;;
        -h | --help) usage; exit 0 ;;
        *) echo "error: unknown option '$1' (--help lists all)" >&2; exit 2 ;;
    esac
done
case $profile in smoke | cpu | gpu | paper) ;; *) echo "error: unknown profile '$profile': smoke, cpu, gpu or paper" >&2; exit 2 ;; esac
if [ -z "$seeds" ]; then [ "$profile" = paper ] && seeds=5 || seeds=1; fi
case $seeds in *[!0-9]* | 0) echo "error: --seeds is a whole number of at least 1, not '$seeds'" >&2; exit 2 ;; esac
ranks=${RANKS:-8}
case $ranks in *[!0-9]* | 0) echo "error: RANKS is a whole number of at least 1, not '$ranks'" >&2; exit 2 ;; esac
[ "${EOA_DATA-unset}" ] || { echo "error: EOA_DATA is empty: name the folder of the data sets, or unset it" >&2; exit 2; }
[ "$profile" = smoke ] && fresh=yes

scripts/setup.sh
# shellcheck disable=SC1091
. .venv/bin/activate
[ "$(id -u)" -ne 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

preset=$profile
[ "$profile" = gpu ] && preset=paper
known=" "
listing=yes # a first pass only learns the names, so that a wrong --only is refused before anything runs

# experiment NAME RANKS SCRIPT ARGS...: one row of the table, for every seed.
experiment() {
    local name=$1 np=$2 script=$3 seed
    shift 3
    wanted "$name" || return 0
    for ((seed = 0; seed < seeds; seed++)); do run_once "$name" "$np" "$script" "$seed" "$@"; done
}

wanted() {
    if [ "$listing" = yes ]; then known+="$1 "; return 1; fi
    [ ${#only[@]} -eq 0 ] || [[ " ${only[*]} " == *" $1 "* ]]
}

run_once() {
    local name=$1 np=$2 script=$3 seed=$4 group=baselines out launch=() resume=()
    shift 4
    [[ $script == baselines/* ]] || group=$(dirname "$script" | tr '[:upper:]' '[:lower:]')
    out=results/$profile/$group/$name-seed$seed
    [ "$fresh" = no ] || rm -rf "$out"
    if [ -f "$out/summary.json" ]; then echo "== $name, seed $seed: finished before, kept"; return; fi
    [ ! -d "$out" ] || resume=(--resume)
    [ "$np" = 1 ] || launch=(mpirun --oversubscribe --bind-to none -np "$np")
    echo "== $name, seed $seed"
    if ! "${launch[@]}" python "$script" --preset "$preset" --seed "$seed" --out "$out" "$@" "${resume[@]}"; then
        # A run that diverged leaves a summary and counts in the tables as what it is; anything else is an error.
        [ -f "$out/summary.json" ] || { echo "error: $name, seed $seed failed" >&2; exit 1; }
        echo "== $name, seed $seed: diverged"
    fi
}

# A plain run with the mean of the rates that the ecosphere found: what is left of its advantage is not the schedule.
replay() {
    local name=$1 of=$2 seed
    shift 2
    wanted "$name" || return 0
    for ((seed = 0; seed < seeds; seed++)); do
        run_once "$name" 1 baselines/Baselines.py "$seed" --replay "results/$profile/eoa-sam/$of-seed$seed/rates.csv" "$@"
    done
}

# Searches are compared by their means: three seeds at least.
searched() { # NAME RANKS SCRIPT ARGS...
    local seeds=$((seeds > 3 ? seeds : 3))
    experiment "$@"
}

# The rates of one experiment on seed 0, then the best of them, by validation accuracy, on the other seeds.
tuned() { tuned_by --learning-rate "$@"; } # NAME RANKS RATES SCRIPT ARGS...

tuned_by() { # OPTION NAME RANKS RATES SCRIPT ARGS...
    local option=$1 name=$2 np=$3 rates=$4 script=$5 group rate seed best runs=()
    shift 5
    wanted "$name" || return 0
    group=$(dirname "$script" | tr '[:upper:]' '[:lower:]')
    for rate in $rates; do
        run_once "$name-$rate" "$np" "$script" 0 "$option" "$rate" "$@"
        runs+=("results/$profile/$group/$name-$rate-seed0")
    done
    best=$(python results/best.py "${runs[@]}")
    rate=${best##*/"$name"-} rate=${rate%-seed0}
    for ((seed = 1; seed < seeds; seed++)); do run_once "$name-$rate" "$np" "$script" "$seed" "$option" "$rate" "$@"; done
}

# What line searches are compared by: `bare` for all, `small` the data and network; losses without smoothing or decay.
compare_steps_on() { # DATA
    small=(--dataset "$1" --precision float32)
    case $1 in
        digits) small+=(--model cnn --width 2 --batch-size 64 --rounds 12) ;;
        mnist) small+=(--model cnn --width 2 --batch-size 128 --train-images 10000 --rounds 8) ;;
        cifar10) small+=(--model cnn --width 2 --batch-size 128 --train-images 10000 --rounds 12) ;;
        topics) small+=(--depth 2 --width 2 --batch-size 16 --rounds 4) ;;
    esac
    bare=(baselines/Baselines.py "${small[@]}" --label-smoothing 0)
}

# Line searches that nobody tunes, and rates, schedules and optimizers at the best of five to seven rates.
steps() { # DATA
    local data=$1 small bare
    compare_steps_on "$data"
    local sgd=(--optimizer sgd --weight-decay 0) adam=(--optimizer adamw --adam-decay 0)
    local sgd_rates adam_rates
    case $data in
        mnist) sgd_rates="0.003 0.01 0.03 0.1 0.3 1 3" adam_rates="0.0003 0.001 0.003 0.01 0.03 0.1 0.3" ;;
        cifar10) sgd_rates="0.01 0.03 0.1 0.3 1 3" adam_rates="0.001 0.003 0.01 0.03 0.1 0.3" ;;
        topics) sgd_rates="0.01 0.03 0.1 0.3 1" adam_rates="0.0003 0.001 0.003 0.01 0.03" ;;
    esac
    for method in constant cosine; do
        tuned_by --adam-rate $method-adam-$data 1 "$adam_rates" "${bare[@]}" --method $method "${adam[@]}"
        experiment $method-prodigy-$data 1 "${bare[@]}" --method $method --optimizer prodigy --adam-decay 0
    done
    for method in constant cosine step onecycle; do
        tuned $method-sgd-$data 1 "$sgd_rates" "${bare[@]}" --method $method "${sgd[@]}"
    done
    tuned schedulefree-sgd-$data 1 "0.03 0.1 0.3 1 3" "${bare[@]}" --optimizer schedulefree-sgd --weight-decay 0
    tuned_by --adam-rate schedulefree-adam-$data 1 "$adam_rates" "${bare[@]}" --optimizer schedulefree-adamw --adam-decay 0
    for direction in adam sgd; do
        experiment salsa-$direction-$data 1 SaLSA/SaLSA.py --direction $direction "${small[@]}"
        experiment sls-$direction-$data 1 SaLSA/SaLSA.py --direction $direction --plain "${small[@]}"
    done
}

# The first step of a line search from 1e-4 to 10, and the same as a rate.
first_steps() { # DATA
    local data=$1 small bare x
    compare_steps_on "$data"
    for x in 0.0001 0.001 0.01 0.1 1 10; do
        for direction in adam sgd; do
            local name=salsa-$direction-$data-first-$x
            [ $x != 0.1 ] || name=salsa-$direction-$data # the usual one
            experiment $name 1 SaLSA/SaLSA.py --direction $direction "${small[@]}" --eta0 $x
        done
        experiment constant-sgd-$data-$x 1 "${bare[@]}" --method constant --optimizer sgd --weight-decay 0 --learning-rate $x
        experiment constant-adam-$data-$x 1 "${bare[@]}" --method constant --optimizer adamw --adam-decay 0 --adam-rate $x
    done
}

experiments() {
    case $profile in
        smoke)
            experiment eoa "$ranks" EOA-SAM/EOASAM.py
            experiment vit "$ranks" EOA-ViT/EOAViT.py
            experiment foraging "$ranks" EOA-SAM/EOASAM.py --base-rate forage --learning-rate 0.001
            experiment eoa-reference "$ranks" EOA-SAM/EOASAM-cifar100.py --reference
            experiment cosine 1 baselines/Baselines.py --method cosine
            experiment linear 2 baselines/Baselines.py --method linear
            experiment sqrt 2 baselines/Baselines.py --method sqrt
            for method in easgd aeasgd eamsgd; do experiment $method 5 EASGD/EASGD.py --method $method; done
            experiment msgd 1 EASGD/EASGD.py --method msgd
            for method in average diloco pbt; do experiment $method 4 baselines/Baselines.py --method $method; done
            experiment psops 4 PSO-PS/PSOPS.py
            experiment salsa 2 SaLSA/SaLSA.py
            experiment salsa-sgd 1 SaLSA/SaLSA.py --direction sgd
            experiment sls 1 SaLSA/SaLSA.py --plain
            experiment salsa-text 1 SaLSA/SaLSA.py --dataset topics --rounds 3 --round-steps 20
            local bare=(baselines/Baselines.py --label-smoothing 0)
            experiment adam-text 1 "${bare[@]}" --dataset topics --rounds 3 --round-steps 20 --optimizer adamw --adam-decay 0
            for method in constant step onecycle; do
                experiment $method-sgd 1 "${bare[@]}" --method $method --optimizer sgd --weight-decay 0
            done
            for optimizer in adamw schedulefree-adamw prodigy; do
                experiment $optimizer 1 "${bare[@]}" --optimizer $optimizer --adam-decay 0
            done
            for strategy in grid random evolution async-evolution tpe; do
                experiment search-$strategy 2 DHPO/DHPO.py --strategy $strategy
            done
            replay replay eoa --batch-size 32 # what one of the two populations sees
            ;;
        cpu)
            experiment eoa-cifar10 "$ranks" EOA-SAM/EOASAM.py
            experiment cosine-cifar10 1 baselines/Baselines.py --method cosine
            experiment eoa-cifar100 "$ranks" EOA-SAM/EOASAM-cifar100.py
            experiment cosine-cifar100 1 baselines/Baselines.py --method cosine --dataset cifar100
            experiment vit-cifar10 "$ranks" EOA-ViT/EOAViT.py
            for eta in 0.001 0.01 0.1 1 10; do # what a wrong base rate does to each method: a small network, part of the data
                local small=(--depth 10 --train-images 20000 --rounds 12 --fitness-images 250 --optimizer sgd --precision float32 --learning-rate $eta)
                experiment foraging-$eta "$ranks" EOA-SAM/EOASAM.py "${small[@]}" --base-rate forage
                experiment reference-$eta "$ranks" EOA-SAM/EOASAM.py "${small[@]}" --reference
                experiment cosine-$eta 1 baselines/Baselines.py "${small[@]}" --method cosine --batch-size 256
                experiment linear-$eta 1 baselines/Baselines.py "${small[@]}" --method linear --batch-size 256
            done
            for tau in 1 4 16 64; do # elastic averaging by period, rates tuned; z averages over 1000 steps whatever the period
                tuned aeasgd-tau$tau 5 "0.4 0.2 0.1" EASGD/EASGD.py --method aeasgd --period $tau
                tuned eamsgd-tau$tau 5 "0.01 0.005 0.0025" EASGD/EASGD.py --method eamsgd --period $tau
                local rates="0.1 0.05 0.02 0.01"
                [ $tau -lt 16 ] || rates+=" 0.005 0.0025"
                tuned downpour-tau$tau 5 "$rates" EASGD/EASGD.py --method downpour --period $tau
                tuned mvadownpour-tau$tau 5 "$rates" EASGD/EASGD.py --method mvadownpour --period $tau \
                    --average-rate "$(printf 0.%03d $tau)"
            done
            for data in mnist cifar10; do # a swarm of weights, and what one would pick instead, by period; rates tuned
                local network=(--model easgd-cnn --width 4) rates="0.8 0.4 0.2 0.1" higher="" lower=""
                if [ $data = cifar10 ]; then # batch norm: without it so short a training comes to nothing
                    network=(--model cnn --width 2) rates="1.6 0.8 0.4 0.2 0.1" higher="3.2 " lower=" 0.05"
                fi
                local own=(--dataset $data "${network[@]}" --crop 28 --pixels normalised --train-images 10000 --rounds 8 --worker-batch 32
                    --fitness-images 500 --optimizer sgd --momentum-factor 0 --weight-decay 1e-4 --label-smoothing 0 --shards own)
                local swarm=(4 "$rates$lower" PSO-PS/PSOPS.py "${own[@]}")
                tuned sync-$data 4 "$higher$rates" baselines/Baselines.py --method sync "${own[@]}"
                tuned independent-$data 4 "$rates" baselines/Baselines.py --method independent "${own[@]}"
                for tau in 1 5 20 100; do
                    tuned average-$data-tau$tau 4 "$rates" baselines/Baselines.py --method average --period $tau "${own[@]}"
                    tuned easgd-$data-tau$tau 4 "$rates" EASGD/EASGD.py --method easgd --period $tau "${own[@]}"
                    tuned hull-$data-tau$tau "${swarm[@]}" --period $tau
                done
                for name in clerc shi oz; do tuned $name-$data-tau20 "${swarm[@]}" --period 20 --swarm $name; done
            done
            for data in mnist cifar10 topics; do steps $data; done # steps that find themselves, and what one would pick instead
            first_steps cifar10
            first_steps digits
            for strategy in grid random evolution async-evolution tpe; do # 64 trials each; two ranks need no longer lag than 4
                local lag=()
                case $strategy in async-evolution | tpe) lag=(--lag 4) ;; esac
                searched search-mnist-$strategy 2 DHPO/DHPO.py --strategy $strategy "${lag[@]}" --dataset mnist --space mnist \
                    --model dhpo-cnn --width 1 --crop 28 --rounds 1 --train-images 0 --schedule constant \
                    --label-smoothing 0 --weight-decay 0
                searched search-cifar10-$strategy 2 DHPO/DHPO.py --strategy $strategy "${lag[@]}"
            done
            for data in cifar10 cifar100; do
                experiment linear-$data 2 baselines/Baselines.py --method linear --dataset $data --batch-size 256
                experiment sqrt-$data 2 baselines/Baselines.py --method sqrt --dataset $data --batch-size 256
                replay replay-$data eoa-$data --dataset $data
            done
            ;;
        gpu | paper)
            experiment eoa-cifar10 "$ranks" EOA-SAM/EOASAM.py
            experiment eoa-cifar100 "$ranks" EOA-SAM/EOASAM-cifar100.py
            for data in cifar10 cifar100; do
                for method in cosine linear sqrt; do
                    experiment $method-$data "$ranks" baselines/Baselines.py --method $method --dataset $data
                done
            done
            if [ "$profile" = paper ]; then
                for strategy in grid random evolution async-evolution tpe; do # MNIST, as published but for the test set
                    experiment search-$strategy 4 DHPO/DHPO.py --strategy $strategy
                done
                experiment eoa-reference-cifar10 "$ranks" EOA-SAM/EOASAM.py --reference
                experiment eoa-reference-cifar100 "$ranks" EOA-SAM/EOASAM-cifar100.py --reference
            fi
            ;;
    esac
}

experiments
for name in "${only[@]}"; do
    [[ $known == *" $name "* ]] || { echo "error: profile $profile has no experiment '$name'; it has:$known" >&2; exit 2; }
done

listing=no
experiments

echo "== tables, figures, report"
if [ -z "$(find "results/$profile" -mindepth 3 -maxdepth 3 -name config.json -not -path '*/dhpo/*' -print -quit)" ]; then
    python results/searches.py "$profile" # there is nothing else
    exit
fi
python results/make_tables.py "$profile"
python results/make_figures.py "$profile"
python results/make_report.py "$profile"
