#!/usr/bin/env bash
# Runs the tests, and installs on Debian what they need and do not find. See docs/testing.md.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
Usage: tests/run.sh [COMMAND]

  (none)         set up what is missing, build the gateway, run every test
  e2e [FILTER]   only the tests of the real binary, those whose name contains FILTER
  world [N]      N random histories of the simulated world (default 1,000,000) on all cores;
                 SNIPE_WORLD_FIRST=K begins with seed K, SNIPE_WORLD_MINUTES=M ends after M minutes,
                 SNIPE_WORLD_SEED=S runs only that one, SNIPE_WORLD_FAILURES=F ends after F failing ones (1),
                 SNIPE_WORLD_THREADS=T takes no more than T cores
  field [DAYS]   a LoRa gateway under 1 % duty cycle among 220 nodes, so many simulated days (default 30)
  mqtt [N]       the embedded broker: normative statements (also against mosquitto), mosquitto's tools,
                 foreign clients, N times the messages over cut connections (default 1)
  crash [KILLS]  the gateway is killed so many times (default 1,000) before mosquitto and with the broker inside,
                 and loses nothing it acknowledged; SNIPE_CRASH_SEED=S begins with that seed
  wear           octets that a durable message costs the device, file system included (as root)
  cuts [N]       N messages (default 100,000) to and from an external broker, and through restarts of the port, for each
                 of 24 combinations while connections are cut every 30 to 180 ms; SNIPE_CUTS_ONLY=TEXT takes those whose
                 name contains TEXT
  noise [MB]     frames in so many MB of serial noise, for each kind of line (default 1024)
  arm            cross-build for 64-bit Arm; run codec tests, core tests and `snipe decode` under qemu
  setup [arm]    only install what is missing
  --help         this text

Set-up installs Debian packages (as root, or through sudo) and the clients of
tests/interop/*requirements.txt (into the target directory). SNIPE_NO_INSTALL=1 forbids it: then what is
missing is named and the command fails.
END
}

target_dir=${CARGO_TARGET_DIR:-target}
arm=aarch64-unknown-linux-gnu

# Most tests wait for sockets and modems, not for the processor.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# install PACKAGE...: from Debian, without questions.
install() {
    if [ "${SNIPE_NO_INSTALL:-}" = 1 ] || ! command -v apt-get >/dev/null; then
        echo "missing: $*" >&2
        echo "install these Debian packages, or what your system calls them, and try again" >&2
        exit 1
    fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
    say "installing $*"
    if [ -z "${apt_updated:-}" ]; then
        "${as_root[@]}" apt-get update -q
        apt_updated=1
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# Debian installs mosquitto where only root's PATH looks.
found() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

setup() {
    local missing=()
    found cc || missing+=(build-essential)
    found mosquitto || missing+=(mosquitto)
    found mosquitto_sub || missing+=(mosquitto-clients)
    found tshark || missing+=(tshark)
    found ip || missing+=(iproute2)
    if ! found python3 || ! python3 -c 'import ensurepip, venv' 2>/dev/null; then missing+=(python3 python3-venv); fi
    if [ ${#missing[@]} -gt 0 ]; then install "${missing[@]}"; fi

    # Clients that nobody here wrote: pinned by version and hash, never committed.
    setup_python interop tests/interop/requirements.txt "the MQTT-SN client"
    setup_python interop-mqtt tests/interop/mqtt-requirements.txt "MQTT clients"
}

# setup_python DIRECTORY REQUIREMENTS WHAT: a virtual environment in the target directory.
setup_python() {
    local directory=$target_dir/$1
    if ! cmp -s "$2" "$directory/installed.txt"; then
        say "installing $3 of $2"
        rm -rf "$directory"
        mkdir -p "$target_dir"
        python3 -m venv "$directory"
        "$directory/bin/pip" install --quiet --disable-pip-version-check --require-hashes --no-deps -r "$2"
        cp "$2" "$directory/installed.txt"
    fi
}

setup_arm() {
    local missing=()
    found cc || missing+=(build-essential)
    found aarch64-linux-gnu-gcc || missing+=(gcc-aarch64-linux-gnu)
    [ -e /usr/aarch64-linux-gnu/lib/libc.so.6 ] && [ -e /usr/aarch64-linux-gnu/include/stdio.h ] ||
        missing+=(libc6-dev-arm64-cross)
    found qemu-aarch64-static || found qemu-aarch64 || missing+=(qemu-user-static)
    if [ ${#missing[@]} -gt 0 ]; then install "${missing[@]}"; fi

    if [ ! -d "$(rustc --print target-libdir --target $arm)" ]; then
        if ! command -v rustup >/dev/null; then
            echo "the Rust toolchain lacks the target $arm, and there is no rustup to add it" >&2
            exit 1
        fi
        say "adding the Rust target $arm"
        rustup target add $arm
    fi
}

# The binary is built first, with the features the whole workspace gives it: the tests start it.
build() {
    say "building the gateway"
    cargo build --workspace --bins --locked
}

run_arm() {
    local qemu
    qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64)
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$qemu -L /usr/aarch64-linux-gnu"
    # An emulated processor is some twenty times slower; the native run has the full number of cases.
    export PROPTEST_CASES=${PROPTEST_CASES:-16}

    say "cross-building for $arm"
    cargo build --workspace --locked --target $arm
    say "codec and core tests on $arm"
    # The resident set of an emulated process is the emulator's too: what a client costs is measured natively.
    cargo test --locked --target $arm -p sn-codec -p gateway-core -- --skip a_sleeping_client_costs
    say "snipe decode on $arm"
    local explained
    explained=$(cargo run --quiet --locked --target $arm -p snipe -- decode 0b0c226162010232312e35)
    printf '%s\n' "$explained"
    grep -q PUBLISH <<<"$explained"
    grep -q '21\.5' <<<"$explained"
}

case "${1:-}" in
    -h | --help)
        usage
        ;;
    "")
        setup
        build
        say "testing"
        cargo test --workspace --locked
        ;;
    e2e)
        shift
        setup
        build
        say "testing"
        cargo test --locked -p system-tests --test e2e --test interop -- "$@"
        ;;
    world)
        say "simulating"
        SNIPE_WORLD_HISTORIES=${2:-1000000} cargo test --locked -p system-tests --test world -- \
            --nocapture random_histories
        ;;
    field)
        say "days in the field"
        SNIPE_FIELD_DAYS=${2:-30} cargo test --locked -p system-tests --test field -- --nocapture
        ;;
    mqtt)
        setup
        say "the embedded broker"
        SNIPE_MQTT_CUTS=${2:-1} cargo test --locked -p broker --test mqtt_3_1_1 --test mqtt_5 --test tools \
            --test interop --test differential --test cuts
        say "the same statements against mosquitto"
        SNIPE_MQTT_BROKER=mosquitto cargo test --locked -p broker --test mqtt_3_1_1 --test mqtt_5
        ;;
    crash)
        setup
        build
        say "kills"
        SNIPE_CRASH_KILLS=${2:-1000} cargo test --locked -p system-tests --test crash -- --nocapture killed_
        ;;
    wear)
        build
        say "what a message costs the disk"
        # The figures are the same without optimisation, and the tests have built it so.
        cargo bench --profile dev --locked -p system-tests --bench wear
        ;;
    cuts)
        setup
        say "cut connections"
        SNIPE_CUTS=${2:-100000} cargo test --locked -p broker --test external_cuts -- --nocapture --test-threads 2 \
            "${SNIPE_CUTS_ONLY:-}"
        ;;
    noise)
        say "frames in noise"
        SNIPE_NOISE_MB=${2:-1024} cargo test --locked -p system-tests --test noise -- --nocapture
        ;;
    arm)
        setup_arm
        run_arm
        ;;
    setup)
        setup
        if [ "${2:-}" = arm ]; then setup_arm; fi
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac
