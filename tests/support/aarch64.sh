#!/bin/sh
# The agent under emulation with the real aarch64 wheels: functions are tested, its times mean nothing.
# Needs Debian's apt tools and the network. Usage: tests/support/aarch64.sh FOLDER PYTHON
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
python=$2
here=$(cd "$(dirname "$0")/../.." && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
key=/usr/share/keyrings/debian-archive-keyring.gpg

# Lists and packages of our own: the system's stay as they are.
fetch() {
  suite=$1 arch=$2
  shift 2
  state="$folder/apt-$suite-$arch"
  mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/debs"
  echo "deb [signed-by=$key] $mirror $suite main" >"$state/sources.list"
  : >"$state/status"
  options="-qq -o Dir::State=$state -o Dir::State::lists=$state/lists -o Dir::State::status=$state/status
    -o Dir::Cache=$state/cache -o Dir::Etc::sourcelist=$state/sources.list -o Dir::Etc::sourceparts=-
    -o APT::Architecture=$arch -o APT::Architectures=$arch -o APT::Sandbox::User=root"
  # shellcheck disable=SC2086
  apt-get $options update
  # shellcheck disable=SC2086
  (cd "$state/debs" && apt-get $options download "$@")
}

if [ ! -e "$folder/ready" ]; then
  # bookworm's qemu 7.2 crashes when onnxruntime is imported; trixie's does not.
  fetch trixie amd64 qemu-user
  for deb in "$folder"/apt-trixie-amd64/debs/*.deb; do dpkg -x "$deb" "$folder/qemu"; done
  fetch bookworm arm64 python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 libstdc++6 zlib1g \
    libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libuuid1 libcrypt1 libsqlite3-0
  for deb in "$folder"/apt-bookworm-arm64/debs/*.deb; do dpkg -x "$deb" "$folder/root"; done
  "$python" -m pip download --quiet --only-binary :all: --python-version 3.11 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 --no-deps -d "$folder/wheels" \
    onnxruntime numpy flatbuffers packaging protobuf
  for wheel in "$folder"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$folder/site"; done
  touch "$folder/ready"
fi

emulator=$(find "$folder/qemu/usr/bin" -name 'qemu-aarch64*' | head -n 1)
cat >"$folder/python" <<EOF
#!/bin/sh
export PYTHONPATH="$folder/site" PYTHONHOME="$folder/root/usr" QEMU_LD_PREFIX="$folder/root" ORT_DISABLE_TELEMETRY=1
exec "$emulator" "$folder/root/usr/bin/python3.11" "\$@"
EOF
chmod +x "$folder/python"
rm -rf "$folder/bundle" "$folder/b.zip" "$folder/t.jsonl"
cd "$here"
"$folder/python" netadapt_onnx/profilers/agent.py --describe
PYTHONPATH="$here:$here/tests/support" "$python" - "$folder" <<'EOF'
import sys
from pathlib import Path

from models import residual
from netadapt_onnx.api.profile import bundle

folder = Path(sys.argv[1])
(folder / "model.onnx").write_bytes(residual(32, size=8).SerializeToString())
bundle(folder / "model.onnx", folder / "b.zip", models=4, time_cap_s=60)
EOF
"$python" -m zipfile -e "$folder/b.zip" "$folder/bundle"
PYTHON="$folder/python" sh "$folder/bundle/b/run.sh"
PYTHONPATH="$here" "$python" -m netadapt_onnx profile import "$folder/bundle/b/results.jsonl" --table "$folder/t.jsonl"
