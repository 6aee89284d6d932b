"""Rewrites one large file in place and logs it, again and again; says what was acknowledged.

Arguments: the file, its size in MiB. Each state of the file is one byte, repeated.
"""

import sys
from pathlib import Path

import runwire

MIB = 1024 * 1024
path, size = Path(sys.argv[1]), int(sys.argv[2])
run = runwire.init("faults", settings=runwire.Settings(strict=True, capture_git=False))
path.touch()
print("ready", flush=True)
for state in range(1, 256):
    with path.open("r+b") as file:  # the same inode, as torch.save does it
        for _ in range(size):
            file.write(bytes([state]) * MIB)
    ref = run.log_artifact(path, "large")
    print(state, ref.id, flush=True)
