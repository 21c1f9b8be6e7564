#!/usr/bin/env bash
# Makes .venv beside this folder with the tested versions and the project in it; with --test also
# what only tests need: a browser, an SSH server, Slurm, builders of images. Of these nothing is started.
# Run again, it does only what is missing. With apt (as root, or with sudo) it also installs the
# system packages; without, it says which ones are needed and for what.
set -euo pipefail
case "$*" in
    "") extra='' ;;
    --test) extra=test ;;
    *) echo "bootstrap: unknown arguments: $*. Usage: bash cluster/bootstrap.sh [--test]" >&2; exit 2 ;;
esac
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'bootstrap: %s\n' "$*" >&2; }

# What FFCV compiles against and runs on.
ffcv_packages=(libopencv-dev libturbojpeg0-dev libtbb12 pkg-config g++)
# What tests open TensorBoard in; hosts as namespaces; a cluster of Slurm on them.
browser_packages=(chromium chromium-driver)
host_packages=(iproute2 libfaketime openssh-client openssh-server rsync)
slurm_packages=(munge slurm-client slurmctld slurmd)
image_packages=(buildah mmdebstrap)

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
may_install() { command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; }
missing() { for p in "$@"; do dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || echo "$p"; done; }

install_packages() { # purpose, packages...
    local purpose=$1 absent; shift
    command -v dpkg-query >/dev/null || { say "no Debian packages here; $purpose needs the equivalents of: $*"; return 0; }
    absent=$(missing "$@" | tr '\n' ' ')
    [ -n "$absent" ] || return 0
    if ! may_install; then
        say "$purpose needs packages that are not installed. Run: sudo apt-get install $absent"
        return 0
    fi
    [ -n "${apt_updated:-}" ] || { say "apt-get update"; as_root apt-get update -qq >/dev/null; apt_updated=yes; }
    say "installing for $purpose: $absent"
    # shellcheck disable=SC2086 - one word a package is meant
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $absent >/dev/null ||
        say "apt-get could not install: $absent($purpose will not work until they are there)"
}

install_for_tests() {
    local absent service policy=/usr/sbin/policy-rc.d
    absent=$(missing munge slurmctld slurmd openssh-server | sed s/openssh-server/ssh/)
    if [ -n "$absent" ] && may_install && [ ! -e $policy ]; then # Debian's way to say that nothing is started
        printf '#!/bin/sh\nexit 101\n' | as_root install -m 755 /dev/stdin $policy
        trap 'as_root rm -f '$policy EXIT
    fi
    if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
        install_packages "the browser tests" "${browser_packages[@]}"
    fi
    install_packages "tests on hosts" "${host_packages[@]}"
    install_packages "tests of Slurm" "${slurm_packages[@]}"
    install_packages "tests of the image" "${image_packages[@]}"
    for service in $absent; do # nor after the next start of this machine
        ! command -v systemctl >/dev/null || as_root systemctl disable -q "$service" 2>/dev/null || true
    done
    [ -z "$(trap -p EXIT)" ] || { as_root rm -f $policy; trap - EXIT; }
}

install() { # packages...; with uv, which takes a quarter of pip's time, unless only pip was told of an index or a proxy
    .venv/bin/python -m pip install -q -c cluster/constraints.txt uv &&
        .venv/bin/uv pip install -q --compile-bytecode --python .venv/bin/python -c cluster/constraints.txt "$@" || {
        say "uv could not install them; now with pip"
        .venv/bin/python -m pip install -q -c cluster/constraints.txt "$@"
    }
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$candidate"; return 0; }
    done
    return 1
}

python=$(find_python) || { install_packages "Python" python3; python=$(find_python); } || {
    say "Python 3.11 or newer is needed. Install one (sudo apt-get install python3.11 python3.11-venv) or name it: PYTHON=/path/to/python bash $0"
    exit 2
}
install_packages "FFCV" "${ffcv_packages[@]}"
[ -z "$extra" ] || install_for_tests

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import ensurepip' 2>/dev/null || install_packages "virtual environments" python3-venv python3-dev
    say "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1
# What is installed for tests has all that is installed without.
stamp=$(cat pyproject.toml cluster/constraints.txt cluster/bootstrap.sh | sha256sum | cut -d' ' -f1)
if ! grep -qsx "$stamp ${extra:-.*}" .venv/.bootstrap; then
    say "installing the pinned packages (about 5 GB with torch's CUDA libraries; a minute or more)"
    install "setuptools>=77" wheel -e ".${extra:+[$extra]}"
    echo "$stamp $extra" >.venv/.bootstrap
fi
if ! .venv/bin/python -c 'import importlib.metadata as m; m.version("ffcv")' 2>/dev/null; then
    say "compiling FFCV"
    install -e '.[ffcv]' >.venv/ffcv.log 2>&1 ||
        say "FFCV could not be compiled (see .venv/ffcv.log). Everything but its own reader works without it."
fi
# Where PYTHONDONTWRITEBYTECODE is set, every process would compile the package again, a tenth of what a short one takes.
.venv/bin/python -m compileall -q rt_scale || true
say "ready: .venv/bin/rt-scale"
