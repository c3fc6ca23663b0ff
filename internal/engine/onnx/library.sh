#!/bin/sh
# Puts ONNX Runtime's shared library into the folder given as $1, as
# libonnxruntime.so (.dylib on macOS). It is taken from the first of these that
# has it: the file ORT_LIB names, the system's own libraries, the wheel on PyPI,
# the package on npm. What is downloaded must match library.sum.
#
#   library.sh OUT [linux/amd64|linux/arm64|darwin/arm64]
#
# A platform other than the machine's own is for building images; then only the
# downloads are asked.
set -eu

version=1.30.0
oldest=29 # the API version that the Go binding is written against: 1.29 and up have it

out=${1:?usage: library.sh OUT [PLATFORM]}
here=$(cd "$(dirname "$0")" && pwd)

os=$(uname -s | tr '[:upper:]' '[:lower:]')
case $(uname -m) in
	x86_64 | amd64) arch=amd64 ;;
	aarch64 | arm64) arch=arm64 ;;
	*) arch=$(uname -m) ;;
esac
own=$os/$arch
platform=${2:-$own}

case $platform in
	linux/amd64) tag=manylinux_2_28_x86_64 node=linux/x64/libonnxruntime.so.1 file=libonnxruntime.so ;;
	linux/arm64) tag=manylinux_2_28_aarch64 node=linux/arm64/libonnxruntime.so.1 file=libonnxruntime.so ;;
	darwin/arm64) tag=macosx_14_0_arm64 node=darwin/arm64/libonnxruntime.$version.dylib file=libonnxruntime.dylib ;;
	*)
		echo "library.sh: no sums are known for $platform; build ONNX Runtime $version yourself and set ORT_LIB to its library" >&2
		exit 1
		;;
esac
lib=$out/$file
stamp=$lib.sum # the line of library.sum that lib matched when it was put there

# Whoever sets ORT_LIB for all that make starts means the file to be made here.
[ "${ORT_LIB:-}" != "$lib" ] || unset ORT_LIB

if [ -z "${ORT_LIB:-}" ] && [ -e "$lib" ] && [ -e "$stamp" ] && [ ! "$lib" -nt "$stamp" ] &&
	grep -q " $platform " "$stamp" && grep -qxF "$(cat "$stamp")" "$here/library.sum"; then
	exit 0
fi

mkdir -p "$out"
tmp=$(mktemp -d "$out/.library.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

sha256() {
	if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

# keep FILE SOURCE checks a downloaded library and puts it in place.
keep() {
	line="$(sha256 "$1") $platform $2"
	if ! grep -qxF "$line" "$here/library.sum"; then
		echo "its sum is not in library.sum: $line" >>"$tmp/log"
		return 1
	fi
	chmod 755 "$1"
	mv -f "$1" "$lib"
	echo "$line" >"$stamp"
	echo "library.sh: $lib: ONNX Runtime $version for $platform from $2" >&2
}

# place FILE puts a library in place that this machine already had.
place() {
	rm -f "$stamp"
	cmp -s "$1" "$lib" && return
	cp -L "$1" "$tmp/$file"
	mv -f "$tmp/$file" "$lib"
	echo "library.sh: $lib: copied from $1" >&2
}

# system prints the newest enough libonnxruntime that the loader knows.
system() {
	[ "$platform" = "$own" ] && command -v ldconfig >/dev/null || return 1
	ldconfig -p | sed -n 's/.*libonnxruntime\.so.* => //p' | while read -r path; do
		minor=$(readlink -f "$path" | sed -n 's/.*\.so\.1\.\([0-9]*\).*/\1/p')
		if [ "${minor:-0}" -ge $oldest ]; then
			echo "$path"
			break
		fi
	done | grep .
}

pypi() {
	for python in python3 python; do
		"$python" -m pip --version >/dev/null 2>&1 && break
	done
	"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
		--python-version 3.12 --platform "$tag" --dest "$tmp" "onnxruntime==$version" >"$tmp/log" 2>&1 &&
		"$python" -m zipfile -e "$tmp"/onnxruntime-*.whl "$tmp/wheel" >>"$tmp/log" 2>&1 &&
		keep "$(ls "$tmp"/wheel/onnxruntime/capi/libonnxruntime.*)" pypi
}

npm_() {
	(cd "$tmp" && npm pack --silent "onnxruntime-node@$version") >"$tmp/log" 2>&1 &&
		tar -xzf "$tmp/onnxruntime-node-$version.tgz" -C "$tmp" "package/bin/napi-v6/$node" >>"$tmp/log" 2>&1 &&
		keep "$tmp/package/bin/napi-v6/$node" npm
}

tried() { echo "  $1: $(tail -n 1 "$tmp/log")" >>"$tmp/tried"; }

if [ -n "${ORT_LIB:-}" ] && [ "$platform" = "$own" ]; then
	if [ ! -r "$ORT_LIB" ]; then
		echo "library.sh: ORT_LIB names $ORT_LIB, which cannot be read; correct it, or unset it to have the library downloaded" >&2
		exit 1
	fi
	place "$ORT_LIB"
	exit 0
fi
if found=$(system); then
	place "$found"
	exit 0
fi
echo "  system: ldconfig knows no libonnxruntime 1.$oldest or newer" >"$tmp/tried"
pypi && exit 0
tried "PyPI (pip download onnxruntime==$version)"
npm_ && exit 0
tried "npm (npm pack onnxruntime-node@$version)"
{
	echo "library.sh: no ONNX Runtime $version for $platform:"
	cat "$tmp/tried"
	echo "Let pip or npm reach its registry, or set ORT_LIB to a libonnxruntime 1.$oldest or newer and run again."
} >&2
exit 1
