#!/bin/sh
# Adapt for a device that nobody can connect to. Both sides are played here: what stands between "carry" and "bring
# back" happens on the device, which needs Python 3.8, numpy and onnxruntime 1.16 or newer, and nothing of ours.
#
#   sh examples/edge_bundle/run.sh MODEL.onnx DATA.npz [FOLDER]
set -eu
model=$1 data=$2 folder=${3:-edge}
mkdir -p "$folder"

netadapt-onnx profile bundle "$model" -o "$folder/bundle.zip"

# carry
mkdir -p "$folder/device"
python -m zipfile -e "$folder/bundle.zip" "$folder/device"
sh "$folder/device/bundle/run.sh"
# bring back

netadapt-onnx profile import "$folder/device/bundle/results.jsonl" --table "$folder/device.jsonl"
netadapt-onnx inspect "$model" --table "$folder/device.jsonl"
# Nothing can be measured while adapting, so a limit on latency holds as far as the table is right.
netadapt-onnx adapt "$model" --data "$data" --device bundle --table "$folder/device.jsonl" \
  --budget latency=0.7x --final-epochs 2 -o "$folder/run"
