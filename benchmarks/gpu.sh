#!/usr/bin/env bash
# What only a GPU shows, in one command of under nine minutes, without a network:
#
#   CIFAR100_ZIPS=DIR benchmarks/gpu.sh     cifar100-part1.zip and cifar100-part2.zip in DIR
#   CIFAR100=DIR benchmarks/gpu.sh          DIR/train/CLASS and DIR/test/CLASS
#
#   1 tests       tests/test_gpu.py
#   2 step        what RecursiveMix adds to a step of ResNet-50 at 224 pixels      -> step.json
#   3 detection   images per second of ATSS and GFL beside torchvision's RetinaNet  -> detection.json
#   4 throughput  images per second of CIFAR-100, ResNet-18, compiled and not      -> throughput.json
#   5 recipe      the recipe cifar100-resnet18, 200 epochs                         -> cifar100-resnet18.json
#   6 confirm     benchmarks/gpu_confirm.yaml: three methods, three seeds          -> confirm/
#
# The recipe gets the time that is left, and stops with a checkpoint; the same command, or with
# PARTS=recipe, goes on from it while RUN is there. The confirmation runs only if named: repeat
# PARTS=confirm, with CONFIRM kept between the calls, until the exit code is 0.
# Records go to ${RESULTS:-results}/gpu/.
#
#   LIMIT=520         seconds for all of it
#   RUN=DIR           folder of the recipe's run          (build/gpu/cifar100-resnet18)
#   CONFIRM=DIR       folder of the confirmation's runs   (build/gpu/confirm)
#   PARTS="..."       some of the six                     (all but confirm)
#   PYTHON=...        with torch, lightning, timm, ...    (.venv/bin/python, else python3)
#   STEP_OPTIONS=...  more for benchmarks/step.py, such as --batch-size 256
#   COMMIT=...        for the records, where this is a copy without .git
#   GPU_SH_DEVICE=cpu QUICK=1   a rehearsal on a CPU with tiny sizes, that measures nothing
#
# Exit code: 0 all is done, 1 a part failed, 2 no GPU or no data, 3 the recipe or the confirmation is not finished.
set -uo pipefail
SECONDS=0
root="$(cd "$(dirname "$0")/.." && pwd)"
results="${RESULTS:-$root/results}/gpu"
run="${RUN:-$root/build/gpu/cifar100-resnet18}"
confirm="${CONFIRM:-$root/build/gpu/confirm}"
device="${GPU_SH_DEVICE:-cuda}"
quick="${QUICK:-}"
limit="${LIMIT:-520}"
parts=" ${PARTS:-tests step detection throughput recipe} "
python="${PYTHON:-$root/.venv/bin/python}"
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python3
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
failed=""

say() { printf '== %3d s  %s\n' "$SECONDS" "$*"; }

# timed SECONDS COMMAND...: at most so long, and no longer than what is left of the limit.
timed() {
    local most=$1 left=$((limit - SECONDS))
    shift
    if [ "$left" -lt 1 ]; then
        say "no time is left"
        return 124
    fi
    timeout --kill-after=15 "$((most < left ? most : left))" "$@"
}

# part NAME SECONDS COMMAND...: a part that may fail while the others go on.
part() {
    local name=$1
    shift
    say "$name"
    timed "$@" && return
    local code=$?
    say "$name: failed with exit code $code (124: out of time)"
    failed="$failed $name"
    return "$code"
}

wants() { [[ "$parts" == *" $1 "* ]]; }

"$python" "$root/benchmarks/gpu.py" check --device "$device" || exit 2

data="${CIFAR100:-}"
if wants throughput || wants recipe || wants confirm; then
    if [ -z "$data" ] && [ -n "${CIFAR100_ZIPS:-}" ]; then
        # Always the same place: a run that goes on needs its data where they were.
        data="${TMPDIR:-/tmp}/recursivemix-cifar100"
        say "unpacking $CIFAR100_ZIPS to $data"
        "$python" "$root/benchmarks/gpu.py" unpack --zips "$CIFAR100_ZIPS" --out "$data" || exit 2
    fi
    if [ -z "$data" ] || [ ! -d "$data/train" ]; then
        echo "gpu.sh: no images${data:+ in $data}: set CIFAR100=DIR (DIR/train/CLASS, DIR/test/CLASS) or" \
            "CIFAR100_ZIPS=DIR (cifar100-part1.zip and -part2.zip)" >&2
        exit 2
    fi
    data="$(cd "$data" && pwd)"
fi
mkdir -p "$results" "$(dirname "$run")"

cores=$(nproc)
workers=$((cores < 8 ? cores : 8))
step=(--model resnet50 --image-size 224 --batch-size 128 --num-classes 1000 --rounds 10 --steps 10)
detection=(--model resnet50 --size 800 --batch 8)
throughput=(--workers "$workers")
fit=(--device gpu --workers "$workers" --trainer.enable-progress-bar false)
if [ "$device" = cpu ]; then
    fit=(--device cpu --workers 0)
fi
if [ -n "$quick" ]; then
    step=(--quick --threads 1)
    detection=(--quick)
    throughput=(--quick --workers 0 --epochs 2)
    fit+=(--epochs 1 --batch-size 8)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
fi

if wants tests; then
    part tests 60 "$python" -m pytest -p no:cacheprovider "$root/tests/test_gpu.py"
fi

if wants step; then
    # shellcheck disable=SC2086  # several words are meant
    part step 120 "$python" "$root/benchmarks/step.py" --device "$device" "${step[@]}" ${STEP_OPTIONS:-} \
        --out "$results/step.json" &&
        "$python" "$root/benchmarks/gpu.py" stamp "$results/step.json"
fi

if wants detection; then
    part detection 120 "$python" "$root/benchmarks/detection.py" --device "$device" "${detection[@]}" \
        --out "$results/detection.json" &&
        "$python" "$root/benchmarks/gpu.py" stamp "$results/detection.json"
fi

if wants throughput; then
    part throughput 180 "$python" "$root/benchmarks/gpu.py" throughput --device "$device" --data "$data" \
        "${throughput[@]}" --out "$results/throughput.json"
fi

if wants recipe; then
    if [ -f "$run/record.json" ]; then
        say "recipe: $run is finished already"
    else
        if [ -f "$run/checkpoints/last.ckpt" ]; then
            command=(fit --resume "$run")
        else
            compile="$("$python" "$root/benchmarks/gpu.py" compile "$results/throughput.json")"
            [ -z "$quick" ] || compile=""
            # shellcheck disable=SC2206  # empty is no argument
            command=(fit --recipe cifar100-resnet18 --data "$data" $compile --out "$run" "${fit[@]}")
        fi
        say "recipe: recursivemix ${command[*]}"
        timed "$limit" "$python" -m recursivemix.cli "${command[@]}"
        say "recipe: exit code $? (124: stopped for time)"
    fi
    "$python" "$root/benchmarks/gpu.py" record "$run" --device "$device" \
        --out "$results/cifar100-resnet18.json" || failed="$failed recipe"
fi

if wants confirm; then
    command=(compare --config "$root/benchmarks/gpu_confirm.yaml" --data "$data" --out "$confirm")
    command+=(--settings.workers "$workers")
    if [ -n "$quick" ]; then
        command+=(--mixers none,recursivemix --methods "{}" --seeds 1 --epochs 1 --model resnet20 --images 4)
        command+=(--settings.device "$device" --settings.workers 0 --settings.batch_size 8)
    fi
    say "confirm: recursivemix ${command[*]}"
    timed "$limit" "$python" -m recursivemix.cli "${command[@]}"
    code=$?
    say "confirm: exit code $code (124: stopped for time)"
    if [ "$code" = 0 ]; then
        mkdir -p "$results/confirm"
        cp "$confirm"/comparison.json "$confirm"/comparison.yaml "$results/confirm/" || failed="$failed confirm"
    elif [ "$code" != 124 ]; then
        failed="$failed confirm"
    fi
fi

say "records in $results: $(ls "$results")"
if [ -n "$failed" ]; then
    say "failed:$failed"
    exit 1
fi
if wants recipe && [ ! -f "$run/record.json" ]; then
    say "the recipe is not finished: the same command with PARTS=recipe goes on"
    exit 3
fi
if wants confirm && [ ! -f "$results/confirm/comparison.json" ]; then
    say "the confirmation is not finished: the same command with PARTS=confirm goes on"
    exit 3
fi
