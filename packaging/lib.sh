# Shared by packaging/start and packaging/test: sourced, never run. Every function is safe to call
# again, does nothing when there is nothing to do, and says on stderr what it does.
# shellcheck shell=bash disable=SC2034

PINFOLD_TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PINFOLD_VENV=$PINFOLD_TOP/.venv
PINFOLD_PYTHON=/usr/bin/python3 # Debian's own: the one for which python3-bpfcc installs bcc

PACKAGES_RUN=(python3 python3-bpfcc libbpf1 python3-venv ca-certificates)
PACKAGES_DEMO=(openssh-server openssh-client gcc libc6-dev iproute2 util-linux curl git)
# What the live tests' peers are: real programs, on namespaces without a way out.
PACKAGES_PEERS=(dropbear-bin autossh socat ncat netcat-traditional nmap tmux stunnel4 iodine wireguard-go wireguard-tools make openssl nftables
  busybox-static chromium e2fsprogs gdb strace wget)
PACKAGES_TEST=(prometheus systemd shellcheck runc "${PACKAGES_PEERS[@]}")

say() { printf 'pinfold: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

need_root() {
  [ "$(id -u)" -eq 0 ] || die "must run as root: sudo packaging/${0##*/}"
}

# missing_packages NAME… : those that are not installed, one a line.
missing_packages() {
  local installed name
  # It fails where one of them is unknown, and has still printed the others.
  installed=" $(dpkg-query -W -f='${db:Status-Status}:${Package} ' "$@" 2>/dev/null || true) "
  for name in "$@"; do
    case $installed in *" installed:$name "*) ;; *) printf '%s\n' "$name" ;; esac
  done
}

# apt-get update does not wait for another one's lock on the lists, as apt-get install does for dpkg's.
apt_update() {
  local attempt said
  for attempt in $(seq 60); do
    said=$(apt-get -q update 2>&1) && return 0
    case $said in *"Could not get lock"*) ;; *) break ;; esac
    [ "$attempt" -ne 1 ] || say "waiting for another apt-get to finish"
    sleep 5
  done
  printf '%s\n' "$said" | tail -n 3 >&2
  say "apt-get update failed; trying with the package lists that are here"
}

POLICY=/usr/sbin/policy-rc.d
POLICY_KEPT=$POLICY.before-pinfold
POLICY_MARK="# pinfold's, while it installs packages; removed afterwards"

# without_services COMMAND… : runs it while Debian's policy-rc.d forbids to start services, since
# openssh-server and prometheus would otherwise listen on this host. The host's own policy is put
# aside and back; killed in between, the next installation puts it back.
without_services() {
  local status=0
  restore_policy
  trap restore_policy EXIT
  [ ! -e "$POLICY" ] || mv -- "$POLICY" "$POLICY_KEPT"
  printf '#!/bin/sh\n%s\nexit 101\n' "$POLICY_MARK" >"$POLICY"
  chmod 755 "$POLICY"
  "$@" || status=$?
  restore_policy
  trap - EXIT
  return "$status"
}

restore_policy() {
  if [ -e "$POLICY" ] && ! grep -qxF "$POLICY_MARK" "$POLICY"; then
    return 0 # another's, made since
  fi
  if [ -e "$POLICY_KEPT" ]; then mv -f -- "$POLICY_KEPT" "$POLICY"; else rm -f -- "$POLICY"; fi
}

# install_packages NAME… : those that are missing.
install_packages() {
  local missing unit
  mapfile -t missing < <(missing_packages "$@")
  [ "${#missing[@]}" -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "needs ${missing[*]}, and this is no Debian: install them by its own means"
  say "installing ${missing[*]}"
  apt_update
  export DEBIAN_FRONTEND=noninteractive
  without_services apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    install --no-install-recommends "${missing[@]}" </dev/null >&2 ||
    die "apt-get could not install ${missing[*]}: see its messages above"
  # The policy keeps a service from starting now; left enabled, it would start at the next boot.
  for unit in ssh:openssh-server prometheus:prometheus iodined:iodine stunnel4:stunnel4; do
    case " ${missing[*]} " in *" ${unit#*:} "*) disable_service "${unit%:*}" ;; esac
  done
}

# As its package enabled it: for sysvinit, and for systemd whether that is installed or not. The helper
# insists on a maintainer script's environment.
disable_service() {
  if ! { update-rc.d "$1" disable && DPKG_MAINTSCRIPT_PACKAGE=$1 deb-systemd-helper disable "$1.service"; } >&2; then
    say "cannot disable the service $1, which was installed for its program alone: do so by hand"
  fi
}

# Changes when the dependencies, the interpreter or the checkout's place do.
venv_stamp() { # extras
  { cat "$PINFOLD_TOP/pyproject.toml" && readlink -f "$PINFOLD_PYTHON" && printf '%s\n' "$PINFOLD_TOP" "$1"; } |
    sha256sum | cut -d' ' -f1
}

# make_venv [EXTRA] : the virtual environment with pinfold in it, from the checkout. "test" holds all of "".
make_venv() {
  local extra=${1:-} want stamp=$PINFOLD_VENV/pinfold-stamp
  want=$(venv_stamp "$extra")
  if "$PINFOLD_VENV/bin/python" -c 'import msgspec' 2>/dev/null && [ -x "$PINFOLD_VENV/bin/pinfold" ]; then
    ! grep -qxF "$want" "$stamp" 2>/dev/null || return 0
  else
    say "making the virtual environment $PINFOLD_VENV"
    rm -rf -- "$PINFOLD_VENV"
    "$PINFOLD_PYTHON" -m venv --system-site-packages "$PINFOLD_VENV" ||
      die "cannot make $PINFOLD_VENV: is python3-venv whole? try: apt-get install --reinstall python3-venv"
  fi
  say "installing pinfold and what it needs with pip"
  "$PINFOLD_VENV/bin/python" -m pip install -qq --disable-pip-version-check --root-user-action=ignore \
    --editable "$PINFOLD_TOP${extra:+[$extra]}" >&2 ||
    die "pip could not install pinfold: see its messages above (it uses this system's pip configuration)"
  [ -z "$extra" ] || want=$(printf '%s\n' "$want" "$(venv_stamp "")")
  printf '%s\n' "$want" >"$stamp"
}

# Only where none is mounted: another's mount, wherever it is, is found and used.
mount_kernel_filesystems() {
  grep -q '^[^ ]* /sys/fs/bpf bpf ' /proc/mounts || mount -t bpf -o mode=0700 bpf /sys/fs/bpf ||
    die "cannot mount bpffs on /sys/fs/bpf: without it nothing can be pinned"
  grep -q ' tracefs ' /proc/mounts || mount -t tracefs -o mode=0700 tracefs /sys/kernel/tracing ||
    die "cannot mount tracefs on /sys/kernel/tracing: tracepoints cannot be attached without it"
}

# The commented example becomes this host's configuration where it has none.
install_config() {
  [ ! -e /etc/pinfold/pinfold.yaml ] || return 0
  say "installing /etc/pinfold/pinfold.yaml"
  install -D -m 0644 "$PINFOLD_TOP/packaging/pinfold.yaml" /etc/pinfold/pinfold.yaml
}

# One installer at a time; the lock goes with the process.
lock_installation() {
  mkdir -p /run/lock
  exec 9>/run/lock/pinfold-packaging.lock
  flock -n 9 || { say "waiting for another installation to finish" && flock 9; }
}
unlock_installation() { exec 9>&-; }
