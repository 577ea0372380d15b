#!/bin/sh
# Links with mold where it is present, else with what the C compiler has. GCC knows mold from version 12.1 on.
if command -v mold >/dev/null && cc -fuse-ld=mold -Wl,--version >/dev/null 2>&1; then
    exec cc -fuse-ld=mold "$@"
fi
exec cc "$@"
