"""A thread dies, the trainer continues."""

import threading

import runwire


def work() -> None:
    raise ValueError("lost batch")


runwire.init("exits")
thread = threading.Thread(target=work, name="loader")
thread.start()
thread.join()
