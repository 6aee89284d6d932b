"""Real torch tensors as images, histograms and cells of a table."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from runwire import ArtifactError, Histogram
from runwire.artifacts.media import image_content, table_jsonl

torch = pytest.importorskip("torch", reason="torch is not installed here")


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64", "bfloat16", "float16", "bool"])
def test_torch_tensors_become_png_images(dtype: str) -> None:
    """Channels first, as torch has them; gradients and strides are no obstacle."""
    tensor = torch.tensor([[[0, 1], [1, 0], [1, 1]]] * 3).to(getattr(torch, dtype))
    if tensor.is_floating_point():
        tensor.requires_grad_()
    content, _ = image_content(tensor)
    assert isinstance(content, bytes)
    found = np.asarray(Image.open(io.BytesIO(content)))
    white = 1 if dtype == "uint8" else 255
    assert found.shape == (3, 2, 3)
    assert found[:, :, 0].tolist() == [[0, white], [white, 0], [white, white]]
    image_content(tensor.transpose(1, 2))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool"])
def test_torch_tensors_are_counted_like_arrays(dtype: str) -> None:
    """A tensor of any dtype gives the histogram of its values."""
    tensor = torch.tensor([[0, 1], [1, 1]]).to(getattr(torch, dtype))
    assert Histogram.of(tensor, bins=2) == Histogram([0, 0.5, 1], [1, 3])


def test_torch_scalars_are_cells_of_a_table() -> None:
    """0-d and small tensors become numbers and lists."""
    rows = [{"loss": torch.tensor(0.5), "ids": torch.tensor([1, 2])}]
    assert table_jsonl(rows) == b'{"loss":0.5,"ids":[1, 2]}\n'


def test_meta_and_sparse_tensors_are_refused() -> None:
    """Without values, or sparse: a sentence or torch's own error, never a wrong image."""
    with pytest.raises((ArtifactError, NotImplementedError, TypeError, RuntimeError)):
        image_content(torch.zeros((3, 4, 4), device="meta"))
