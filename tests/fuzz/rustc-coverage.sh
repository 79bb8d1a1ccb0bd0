#!/bin/sh
# Cargo runs this in place of rustc for the crates of the workspace (RUSTC_WORKSPACE_WRAPPER): libraries get a counter for each
# edge of their control flow. Stable flags only. Crates from outside are used as they are already built.
case " $* " in
*" --crate-name tulle_fuzz "*) ;;
*" --crate-type lib "*)
    exec "$@" -C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=3 \
        -C llvm-args=-sanitizer-coverage-inline-8bit-counters
    ;;
esac
exec "$@"
