#!/usr/bin/env bash
# Build and check a release in dist/, and stop before uploading. Run by `make release`.
# Writes the wheel and the sdist, SHA256SUMS, tested.txt (versions in the environment of the tests) and licenses.md.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/${1:?the python that has build, twine and pip-licenses}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
fail() { echo "error: $*" >&2; exit 1; }

version=$($python -c 'import gradience; print(gradience.__version__)')
[ -z "$(git status --porcelain)" ] || fail "the checkout has changes; commit them first"
grep -q "^version: $version\$" CITATION.cff || fail "CITATION.cff does not name version $version"
grep -q "^## \[$version\]" CHANGELOG.md || fail "CHANGELOG.md has no section $version"
[ "$(git rev-parse -q --verify "v$version^{commit}" || true)" = "$(git rev-parse HEAD)" ] ||
  echo "note: HEAD is not tagged v$version" >&2

# The same commit gives the same bytes.
export SOURCE_DATE_EPOCH
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
for build in one two; do
  "$python" -m build --outdir "$scratch/$build" . >/dev/null
done
diff -r "$scratch/one" "$scratch/two" || fail "two builds differ"
rm -rf dist && cp -r "$scratch/one" dist
"$python" -m twine check --strict dist/*

# The wheel is what `make wheel` checks; the sdist gives the same wheel.
scripts/bare_wheel.sh
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$scratch/from-sdist" dist/*.tar.gz
cmp "$scratch"/from-sdist/*.whl dist/*.whl || fail "the wheel from the sdist differs"

"$python" -m pip --python .venv/bin/python freeze --exclude-editable >dist/tested.txt
"$python" -m piplicenses --python .venv/bin/python --from mixed --format markdown --order license >dist/licenses.md
if grep -E '\| *UNKNOWN *\|' dist/licenses.md; then fail "a dependency names no license"; fi
(cd dist && sha256sum ./*.whl ./*.tar.gz >SHA256SUMS)
ls -l dist
echo "ready; to upload: $python -m twine upload dist/*.whl dist/*.tar.gz"
