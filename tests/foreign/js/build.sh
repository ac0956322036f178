#!/bin/sh
# Builds the JavaScript capsule into a folder that `astrid-build build` packs: build.sh FOLDER.
# Needs componentize-qjs on PATH (npm install componentize-qjs@0.4.5).
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
out=$1
mkdir -p "$out/wit/deps"
cp "$here/Capsule.toml" "$out/"
cp "$here/world.wit" "$out/wit/"
cp -R "$here/../../../wit/." "$out/wit/deps/"
componentize-qjs --wit "$out/wit" --js "$here/capsule.js" --world capsule --sync --opt-size --minify --output "$out/js.wasm"
