#!/usr/bin/env bash
# The package as a stranger gets it: the wheel alone in a fresh environment, outside of the checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout="$PWD"
most_megabytes=900
most_packages=55
not_for_users="chex hypothesis mypy pyarrow pytest ruff scikit-learn tensorflow-datasets"

fail() {
    echo "wheel: $*" >&2
    exit 1
}

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$checkout/.cache/jax}"
unset PYTHONPATH FEDVLR_DATA

make wheel
wheel="$(echo "$checkout"/dist/*.whl)"
.venv/bin/python -m zipfile --list "$wheel" | awk '$1 ~ /^fedvlr_jax\// {print $1}' | sort >"$scratch/packed"
git ls-files fedvlr_jax configs | sed 's,^configs/,fedvlr_jax/configs/,' | sort >"$scratch/tracked"
diff "$scratch/tracked" "$scratch/packed" >&2 || fail "expected the files of fedvlr_jax/ and configs/ and no others"

.venv/bin/python -m venv "$scratch/venv"
bin="$scratch/venv/bin"
"$bin/pip" install --quiet --disable-pip-version-check "$wheel"
"$bin/pip" --disable-pip-version-check check
"$bin/pip" list --disable-pip-version-check --format=freeze | sed 's/==.*//' >"$scratch/packages"
packages="$(wc -l <"$scratch/packages")"
megabytes="$(du -sm "$("$bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" | cut -f1)"
for name in $not_for_users; do
    ! grep -qix "${name//-/[-_]}" "$scratch/packages" || fail "expected no $name among the packages of a user"
done
((packages <= most_packages)) || fail "expected at most $most_packages packages, found $packages"
((megabytes <= most_megabytes)) || fail "expected at most $most_megabytes MB installed, found $megabytes"

mkdir "$scratch/empty"
cd "$scratch/empty"
"$bin/python" -c '
import importlib.metadata, fedvlr_jax
assert fedvlr_jax.__version__ == importlib.metadata.version("fedvlr_jax"), fedvlr_jax.__version__'
"$bin/fedvlr-train" --config.rounds=5 --config.variant=base --config.baselines=False --workdir=run >/dev/null
test -s run/result.json || fail "expected run/result.json after fedvlr-train, found none"
"$bin/fedvlr-evaluate" --workdir=run | grep -qx "All metrics are equal to those of result.json." ||
    fail "expected fedvlr-evaluate to find the metrics of the run again"
"$bin/fedvlr-sweep" --sweep=rates --config.dry_run >/dev/null
"$bin/fedvlr-benchmark" --help >/dev/null

# The first python block below the heading "Ten lines" of README.md, else examples/quickstart.py.
awk '/^#+ .*[Tt]en lines/ {below = 1}
     below && /^```python/ {inside = 1; next}
     inside && /^```/ {exit}
     inside' "$checkout/README.md" >ten_lines.py
if [[ ! -s ten_lines.py ]]; then
    cp "$checkout/examples/quickstart.py" ten_lines.py || fail 'expected a python block below "Ten lines" in README.md'
fi
"$bin/python" ten_lines.py >/dev/null

echo "wheel: $packages packages, $megabytes MB installed; trained, evaluated and ran the ten lines in an empty folder"
