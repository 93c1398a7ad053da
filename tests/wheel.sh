#!/usr/bin/env bash
# The wheel, built and installed alone into a clean environment, works for every verb.
set -euo pipefail
cd "$(dirname "$0")/.."
constraints=$PWD/constraints.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

.venv/bin/python -m build --wheel --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log"; exit 1; }
.venv/bin/python -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet -c "$constraints" "$work"/dist/*.whl

cd "$work" # not in the source tree
env/bin/python - <<'PYTHON'
import importlib.metadata
import pathlib

import rank_lab

home = pathlib.Path(rank_lab.__file__).resolve().parent
assert home.parent.name == "site-packages", f"imported from {home}"
for name in ("py.typed", "demo/base/model.safetensors", "app/guide/training.md"):
    assert (home / name).is_file(), f"the wheel lacks {name}"
files = importlib.metadata.files("rank-lab") or []
top = {file.parts[0] for file in files if not file.parts[0].startswith(("rank_lab", ".."))}
assert not top, f"the wheel leaves in site-packages: {top}"
PYTHON
env/bin/rank-lab --help >/dev/null
env/bin/rank-lab demo -o study --steps 2 --no-browser >/dev/null
test -s study/export/figures/figures.html
env/bin/rank-lab show study >/dev/null
env/bin/rank-lab export study -o tables >/dev/null
test -s tables/updates.csv
test -s tables/table_ranks.tex
env/bin/rank-lab verify study --sample 2 >/dev/null
base=$(env/bin/python -c 'import pathlib, rank_lab; print(pathlib.Path(rank_lab.__file__).parent / "demo" / "base")')
env/bin/rank-lab analyze study/full-1e-4 --base "$base" -o again >/dev/null
env/bin/rank-lab plan again --budget 20000 >/dev/null
env/bin/rank-lab extract study/full-1e-4 --base "$base" --plan again/full-1e-4.plan.json -o extracted >/dev/null
test -s extracted/extracted.json
env/bin/python - "$base" <<'PYTHON'
import sys

import peft
import transformers

from rank_lab.sora import SoraConfig

base = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
config = SoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
peft.get_peft_model(base, config).save_pretrained("sora")
PYTHON
env/bin/rank-lab fold sora -o plain --model "$base" >/dev/null
test -s plain/adapter_model.safetensors
for name in train validation; do
    for number in 1 2 3 4 5 6 7 8; do echo "{\"said\": \"$number\", \"label\": $((number % 2))}"; done >"$name.jsonl"
done
env/bin/rank-lab schedule "$base" --task parity --text-column said --label-column label --data . --subset 4 --targets q_proj \
    --thresholds 0,1 --min-steps 1 --max-steps 2 --check-steps 1 --patience 1 -o curves >/dev/null 2>&1
test -s curves/curve.jsonl
sed 's/"said"/"text"/' train.jsonl >texts.jsonl
for method in full lora; do
    env/bin/rank-lab finetune "$base" --method $method --data . --text-column said --steps 3 --batch-size 2 --lr 1e-3 \
        --track-at 3 -o "runs/$method" >/dev/null 2>&1
done
test -s runs/lora.rank/report.json
env/bin/rank-lab evaluate runs/full runs/lora --base "$base" --target-text numbers=texts.jsonl --source-text known=texts.jsonl \
    -o runs >/dev/null 2>&1
echo "run,method,step,task,metric,value" >scores.csv
echo "base,base,0,counting,acc,0.5" >>scores.csv
env/bin/rank-lab import-scores scores.csv -o runs >/dev/null 2>&1
env/bin/rank-lab show runs >/dev/null
env/bin/rank-lab export runs -o outcomes -f csv >/dev/null
test -s outcomes/outcomes.csv
env/bin/rank-lab subspace runs/lora runs/full --base "$base" -o runs --intruder-k 10 >/dev/null
test -s runs/lora-full.subspace/subspace.json
printf '{"text": "A man of words and not of deeds."}\n{"text": "Is like a garden full of weeds."}\n' >probe.jsonl
env/bin/rank-lab functional runs/lora --base "$base" --texts probe.jsonl --resamples 0 -o runs >/dev/null
test -s runs/lora.functional/functional.json
env/bin/rank-lab verify runs/lora.functional >/dev/null
env/bin/rank-lab verify runs/lora-full.subspace >/dev/null
env/bin/rank-lab export runs -o compared -f csv >/dev/null
test -s compared/subspace_angles.csv
env/bin/rank-lab behavioural runs/full --base "$base" --target numbers=texts.jsonl --source known=texts.jsonl --ranks 1,2 \
    -o runs >/dev/null 2>&1
test -s runs/full.behavioural/behavioural.json
env/bin/rank-lab verify runs/full.behavioural --sample 1 >/dev/null
env/bin/rank-lab fairness runs/full runs/lora >/dev/null
env/bin/rank-lab dashboard runs --no-browser >dashboard.log 2>&1 &
dashboard=$!
for _ in $(seq 300); do
    grep -q "dashboard of" dashboard.log && break
    kill -0 "$dashboard" 2>/dev/null || break
    sleep 0.2
done
address=$(grep -o "http://[^ ]*" dashboard.log) || { cat dashboard.log; exit 1; }
env/bin/python -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()' "$address"
kill "$dashboard"
wait "$dashboard"
echo "wheel: every verb works from $(basename dist/*.whl)"
