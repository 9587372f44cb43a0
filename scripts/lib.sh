# Helpers that the scripts of this folder source. `die` names the script that failed.
say() { if [ -t 2 ]; then printf '\033[36m==>\033[0m %s\n' "$*" >&2; else printf '==> %s\n' "$*" >&2; fi; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

quietly() {  # run a command, and show its output only if it fails
  local output
  output=$("$@" 2>&1) || { printf '%s\n' "$output" >&2; die "this failed: $*"; }
}

apt_updated=
apt_update() {
  [ -n "$apt_updated" ] || quietly apt-get update -qq
  apt_updated=1
}

apt() {  # apt PACKAGE...: install Debian packages
  have apt-get || die "needs $*; install it with your system's package manager, then run this again"
  [ "$(id -u)" = 0 ] || die "needs the Debian packages $*; run this as root, or: apt-get install $*"
  say "Debian packages: $*"
  export DEBIAN_FRONTEND=noninteractive
  apt_update
  quietly apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
}

mirror() {  # the Debian mirror that this machine uses
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | head -1 | grep .
}

# from_trixie FOLDER PACKAGE...: unpack packages of Debian 13 into FOLDER/x. apt checks signatures.
from_trixie() {
  local work=$1 uri
  shift
  apt_update
  uri=$(mirror) || return 1
  mkdir -p "$work"/{lists/partial,cache/archives/partial}
  printf 'Types: deb\nURIs: %s\nSuites: trixie\nComponents: main\nSigned-By: %s\n' \
    "$uri" /usr/share/keyrings/debian-archive-keyring.gpg >"$work/trixie.sources"
  local options=(-qq -o Dir::Etc::sourcelist="$work/trixie.sources" -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root
    -o Dir::State::lists="$work/lists" -o Dir::Cache="$work/cache")
  (cd "$work" && apt-get "${options[@]}" update && apt-get "${options[@]}" download "$@" &&
    for package in *.deb; do dpkg-deb -x "$package" x; done) >/dev/null
}

current() {  # current FORM SOURCE...: is that form of dstack-vpn installed, and newer than its sources?
  [ -e ".venv/.installed-$1" ] && [ -z "$(find -L "${@:2}" -newer ".venv/.installed-$1" -print -quit)" ]
}

install_own() {  # install_own FORM OTHER-FORM ARGUMENT...: install dstack-vpn as one form, not the other
  local form=$1 other=$2
  shift 2
  rm -f ".venv/.installed-$other"
  touch ".venv/.installing-$form"  # a source that changes during the build is newer
  .venv/bin/python -m pip install -q --disable-pip-version-check --no-deps "$@"
  mv ".venv/.installing-$form" ".venv/.installed-$form"
}
