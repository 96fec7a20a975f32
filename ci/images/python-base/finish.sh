#!/usr/bin/env bash
# Gives the root file system named by $1 what the official Python image has and Debian's packages do not: pip, and the right to use it.
set -euo pipefail
root=$1

# pip as a program and as a module runs out of the wheel that python3-venv brings anyway, which saves its unpacked copy of 16 MB.
wheel=$(cd "$root" && echo usr/share/python-wheels/pip-*.whl)
echo "/$wheel" >"$root/usr/local/lib/python3.11/dist-packages/pip.pth"
cat >"$root/usr/local/bin/pip" <<'END'
#!/usr/bin/python3
import sys
from pip._internal.cli.main import main

sys.exit(main())
END
chmod 755 "$root/usr/local/bin/pip"
ln -s pip "$root/usr/local/bin/pip3"

# In an image pip is the one that installs Python packages; the official image has no such guard.
rm "$root/usr/lib/python3.11/EXTERNALLY-MANAGED"

rm -rf "$root"/etc/apt/sources.list* "$root"/var/cache/debconf/* "$root"/var/log/* "$root"/var/cache/ldconfig/* "$root"/usr/share/zoneinfo/right
