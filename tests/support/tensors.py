"""Stand-in for the part of a torch tensor that media use, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np


class Tensor:
    """An array with the interface of a tensor; tests/with_torch has real ones."""

    dtype, is_cuda = "torch.float32", False

    def __init__(self, array: np.ndarray[Any, Any], *, is_cuda: bool = False) -> None:
        self._array, self.is_cuda = array, is_cuda

    def detach(self) -> Tensor:
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        return self._array
