#!/usr/bin/env bash
# The wheel, built and installed alone into a clean environment, works for every verb
# that needs no training; what it needs beside it is linked from the development environment.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m build --wheel --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
.venv/bin/python -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --no-deps "$work"/dist/*.whl
site=$("$work/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

top=$(cd "$site" && ls -d */ | grep -v -E '^(pip|setuptools|pkg_resources|_distutils_hack|[^/]*\.dist-info)/$' || true)
[ "$top" = "rank_lab/" ] || { echo "the wheel leaves in site-packages: $top"; exit 1; }

# The dependencies, without the development environment's own copy of rank_lab.
.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/dependencies.pth"
cd "$work" # not in the source tree
"$work/env/bin/python" - <<PYTHON
import rank_lab, pathlib
home = pathlib.Path(rank_lab.__file__).resolve()
assert "$work" in str(home), f"imported from {home}"
for name in ("py.typed", "demo/base/model.safetensors"):
    assert (home.parent / name).is_file(), f"the wheel lacks {name}"
PYTHON
"$work/env/bin/rank-lab" --help >/dev/null
"$work/env/bin/rank-lab" demo -o study --steps 3 >/dev/null
"$work/env/bin/rank-lab" show study >/dev/null
"$work/env/bin/rank-lab" export study -o tables >/dev/null
test -s tables/updates.csv
base=$("$work/env/bin/python" -c 'import rank_lab, pathlib; print(pathlib.Path(rank_lab.__file__).parent / "demo" / "base")')
"$work/env/bin/rank-lab" analyze study/full --base "$base" -o again >/dev/null
echo "wheel: every verb works from $(basename "$work"/dist/*.whl)"
