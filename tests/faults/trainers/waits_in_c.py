"""Is inside a C call that does not look for signals."""

import hashlib

import runwire

runwire.init("exits")
runwire.log({"loss": 1.0})
print("ready", flush=True)
while True:
    hashlib.pbkdf2_hmac("sha256", b"a", b"b", 800_000)
