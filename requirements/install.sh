#!/usr/bin/env bash
# Creates .venv and installs the named sets of requirements: requirements/install.sh SET...
# A set is a file in this folder (core, ros, models, ...). Used by the Makefile.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'segzero: %s\n' "$*" >&2; exit 1; }

# With a ROS installation sourced, its own Python and packages are used; without one, wheels.
sourced_ros() { [ -n "${ROS_DISTRO:-}" ] && /usr/bin/python3 -c 'import rclpy' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.12 python3.11 python3.13 python3.10; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
        2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail 'needs Python 3.10 to 3.13: sudo apt install python3, or make PYTHON=/path/to/python'
}

if sourced_ros; then
  python=/usr/bin/python3 site=--system-site-packages
else
  python=$(find_python) site=
fi

if [ ! -x .venv/bin/pip ]; then
  rm -rf .venv
  "$python" -m venv $site .venv >/dev/null ||
    fail "$python cannot make a virtual environment: sudo apt install python3-venv"
fi

pip=(.venv/bin/python -m pip --disable-pip-version-check install --quiet)
for set in "$@"; do
  if [ "$set" = ros ] && sourced_ros; then continue; fi
  echo "installing requirements/$set.txt"
  if [ "$set" = models ] && ! command -v nvidia-smi >/dev/null; then
    # Without a GPU the CPU build of torch will do: a tenth of the download.
    torch=$(grep '^torch==' requirements/models.txt)+cpu
    "${pip[@]}" "$torch" 2>/dev/null ||
      "${pip[@]}" "$torch" --index-url https://download.pytorch.org/whl/cpu 2>/dev/null || true
  fi
  "${pip[@]}" -r "requirements/$set.txt"
done
"${pip[@]}" --no-deps --editable .
