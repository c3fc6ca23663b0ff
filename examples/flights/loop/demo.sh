#!/usr/bin/env bash
# A year of flights with nobody's hands on it: `make demo`. UNTIL shortens it, KEEP=folder keeps everything, PORT says where the console is.
set -euo pipefail
cd "$(dirname "$0")/../../.."
flights=examples/flights

trainer=lightgbm python=$PWD/.venv-flights/bin/python
trainers="lightgbm=$python $PWD/$flights/trainer.py,reversed=$python $PWD/$flights/loop/reversed.py"
if ! "$python" -c 'import lightgbm' 2> /dev/null; then
  echo "no Python with LightGBM here: candidates are the built-in trainer's, hardly better than the trees that January taught, so most are refused" >&2
  trainer=logistic trainers=
fi

data=${KEEP:-$(mktemp -d)}
port=${PORT:-$((20000 + RANDOM % 10000))}
export PILOTLIGHT_SERVER=http://127.0.0.1:$port
# The replay is the clock: it tells the time (TICKS=off), and a day of 2013 takes a second. What goes by the clock of this
# machine is set for that.
PORT=$port LOG_LEVEL=WARN DATA_DIR=$data TICKS=off PAYLOAD_EVERY=200ms FEATURE_SAMPLE=0 \
  TRAINERS=$trainers bin/all 2> "$data/log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true; [ -n "${KEEP:-}" ] || rm -rf "$data"' EXIT
for _ in $(seq 100); do curl -sf "$PILOTLIGHT_SERVER/readyz" > /dev/null && break; sleep 0.1; done

sed '/path: landing/d' "$flights/features.yaml" > "$data/features.yaml" # the weather comes as it comes, not as files
bin/pilotlight features apply -f "$data/features.yaml" > /dev/null
bin/pilotlight model push flights "$flights/loop/january.onnx" --features flights > /dev/null
bin/pilotlight model push flights-frozen "$flights/loop/january.onnx" --features flights --log-off > /dev/null
curl -sf -T "$flights/loop/january.json" "$PILOTLIGHT_SERVER/admin/v1/drift/flights/1/reference" > /dev/null
bin/pilotlight alerts apply -f "$flights/loop/rules.yaml" > /dev/null
sed -E "s/^pause: .*/pause: 2s/; s/hold: 1d/hold: 1s/; s/patience: 30d/patience: 1h/; s/trainer: .*\}/trainer: $trainer}}/" "$flights/pipelines/retrain.yaml" > "$data/pipeline.yaml"
bin/pilotlight pipeline apply -f "$data/pipeline.yaml" > /dev/null

echo "watch it in the console: $PILOTLIGHT_SERVER/console" >&2
export DATA=$data
[ $trainer = logistic ] || bad=2013-10-15T07:00:00Z=$flights/loop/bad.sh
go run ./$flights/replay -ask "$PILOTLIGHT_SERVER" -loop 24h -svg "${SVG:-$data/loop.svg}" ${UNTIL:+-until "$UNTIL"} ${bad:+-do "$bad"}
if [ -t 0 ] && [ -t 2 ]; then
  read -r -p "The year is over. Look around: $PILOTLIGHT_SERVER/console; Enter ends it. " || true
fi
