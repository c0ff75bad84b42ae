"""Runs benchmarks one after the other, each in a process of its own.

python -m benchmarks [NAME …] [--quick] [--write]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.common import FOLDER

# Those that need no data but the bundle; others state on their own what they need.
NAMES = ("step_cost", "engine", "link", "channel", "memory")


def main() -> None:
    """Stops at the first that fails."""
    known = sorted(path.stem for path in FOLDER.glob("[a-z]*.py"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="only show that they run")
    parser.add_argument("--write", action="store_true", help="keep the results in RESULTS.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(known):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}")
    options = [f"--{name}" for name in ("quick", "write") if getattr(arguments, name)]
    for name in arguments.names or NAMES:
        print(f"\n{name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        if code := subprocess.call(command):
            sys.exit(code)


if __name__ == "__main__":
    main()
