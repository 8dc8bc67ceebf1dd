#!/usr/bin/env bash
# The wheel without extras, installed away from the source tree: small, without PyTorch, and it works. Run by `make wheel`.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

.venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$scratch/dist" .
.venv/bin/python -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$scratch"/dist/gradience_lora-*.whl
(
  cd "$scratch"
  PATH="$scratch/venv/bin:$PATH"
  for heavy in torch scipy safetensors huggingface_hub; do
    if python -c "import $heavy" 2>/dev/null; then echo "the bare wheel brought $heavy" >&2; exit 1; fi
  done
  megabytes=$(du -sm venv | cut -f1)  # with pip, some 20 MB
  if [ "$megabytes" -ge 170 ]; then echo "the bare wheel takes $megabytes MB" >&2; exit 1; fi
  gradience --help
  gradience env
  gradience demo
  adapter=$(python -c 'from gradience.cli.demo import example_adapter; print(example_adapter())')
  gradience audit "$adapter" --layers
  gradience audit "$adapter" --json | python -c 'import json, sys; assert json.load(sys.stdin)["n_layers"] > 0'
  gradience compress "$adapter" --rank 4 --output smaller
  gradience compare "$adapter" smaller
  gradience audit "$adapter" --quiet --output audit.json
  if gradience report audit.json; then echo "a page without jinja2" >&2; exit 1; fi
  python -m pip install --quiet --disable-pip-version-check jinja2
  gradience report audit.json
  grep --quiet --fixed-strings 'plotly.js (cartesian - minified)' report.html  # the bundle came with the wheel
)
