#!/usr/bin/env bash
# Installs what `make dist` built in a bare environment outside the checkout: of the wheel, as the first cell of a notebook on a
# hosted service does it, notebooks 00 and 02 run; of the source archive, tests that need no real model.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
wheel=$(ls "$root"/dist/emotrace-*.whl) archive=$(ls "$root"/dist/emotrace-*.tar.gz)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
"${PYTHON:-python3}" -m venv venv
pip=(venv/bin/python -m pip --disable-pip-version-check -q)
"${pip[@]}" install "$(grep '^torch==' "$root/requirements.lock")" # first: a range could pull another build
"${pip[@]}" install -c "$root/requirements.lock" "$wheel[study,embedded,remote]" ipykernel nbclient
venv/bin/emotrace setup

export EMOTRACE_CACHE=$place/cache EMOTRACE_RUNS=$place/runs HF_HUB_OFFLINE=1
cp "$root"/notebooks/0[02]_*.ipynb .
for notebook in 0[02]_*.ipynb; do
  SECONDS=0
  venv/bin/jupyter-execute --timeout=600 "$notebook"
  echo "from the wheel: $notebook ok, $SECONDS s"
done

"${pip[@]}" install --no-deps --force-reinstall "$archive"
"${pip[@]}" install -c "$root/requirements.lock" hypothesis pytest pytest-timeout
tar xzf "$archive"
cd emotrace-*/
../venv/bin/python -m pytest -q -m "not real and not slow" tests/test_vectors.py tests/test_public_names.py tests/measures
echo "from the source archive: ok"
