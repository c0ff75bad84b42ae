#!/usr/bin/env bash
# Installs what deploy/check.sh checks with into a folder (default: .venv-deploy), nothing else.
# promtool and docker-compose come from Debian's packages unless they are here already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$(realpath -m "${1:-.venv-deploy}")
python=${PYTHON:-$(command -v python3.11 || command -v python3)}

has_compose() {
  docker compose version || docker-compose version || "$folder/bin/docker-compose" version
} >/dev/null 2>&1

has_promtool() {
  [ -x "$folder/bin/promtool" ] || command -v promtool
} >/dev/null 2>&1

# Debian's trixie has both, in versions that run on bookworm; apt's own sources stay as they are.
from_debian() {
  local apt codename mirror options deb
  apt=$(mktemp -d)
  mkdir -p "$apt"/lists/partial "$apt"/cache/archives/partial
  # shellcheck disable=SC1091
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  # shellcheck disable=SC2016
  mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' "Codename: $codename" 'Component: main' | head -1)
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > "$apt/list"
  options=(-qq -o "Dir::Etc::sourcelist=$apt/list" -o Dir::Etc::sourceparts=/dev/null
    -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  (cd "$apt" && apt-get "${options[@]}" download "$@")
  for deb in "$apt"/*.deb; do dpkg-deb -x "$deb" "$apt/root"; done
  find "$apt/root" -type f \( -name promtool -o -name docker-compose \) -perm -100 \
    -exec install -t "$folder/bin" {} +
  rm -rf "$apt"
}

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r deploy/tools.txt

missing=()
has_promtool || missing+=(promtool)
has_compose || missing+=(docker-compose)
if [ ${#missing[@]} -gt 0 ]; then
  if ! grep -qs '^ID=debian' /etc/os-release; then
    echo "install-tools: this is not Debian, please install by hand: ${missing[*]}" >&2
    exit 1
  fi
  apt-get -qq update
  from_debian "${missing[@]}"
fi
