#!/bin/sh
# Unpacks Debian's or Ubuntu's chromium with what it needs into a folder, without root, and prints the command that
# starts it:  EDGEQ_CHROMIUM=$(docs/fetch_chromium.sh ~/chromium) make test
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
mkdir -p "$folder/debs" "$folder/root"
packages=$(apt-get install --simulate --no-install-recommends chromium | awk '/^Inst/ { print $2 }')
cd "$folder/debs"
# shellcheck disable=SC2086 # names of packages, one word each
apt-get download $packages >&2
for deb in *.deb; do dpkg-deb -x "$deb" "$folder/root"; done
libraries=$(find "$folder/root" -name '*.so*' -printf '%h\n' | sort -u | paste -s -d :)
cat > "$folder/chromium" <<END
#!/bin/sh
LD_LIBRARY_PATH='$libraries' exec '$folder/root/usr/lib/chromium/chromium' "\$@"
END
chmod +x "$folder/chromium"
echo "$folder/chromium"
