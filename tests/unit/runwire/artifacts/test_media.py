"""Images, figures and tables: what arrives is what was logged."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runwire import ArtifactError
from runwire.artifacts.media import image_content
from runwire.run import Run
from support.artifacts import contents, requests
from support.tensors import Tensor


def pixels(image: Any) -> np.ndarray[Any, Any]:
    """What somebody who opens the file sees."""
    content, suffix = image_content(image)
    assert isinstance(content, bytes)
    assert suffix == ".png"
    return np.asarray(Image.open(io.BytesIO(content)))


def test_an_image_is_an_artifact(root: Path, run: Run) -> None:
    """Named after the last part of its name, with its step; the implicit one where none is said."""
    run.log({"a": 1.0})
    run.log_image(np.zeros((4, 6, 3), "uint8"), "val/sample", step=7)
    run.log_image(np.zeros((4, 6, 3), "uint8"), "val/sample.png")
    first, second = requests(root)
    assert (first.name, first.type, first.metadata) == ("val/sample", "image", {"step": 7})
    assert second.metadata == {"step": 1}
    (found,) = contents(root, first).items()
    assert found[0] == "sample.png"
    assert Image.open(io.BytesIO(found[1])).size == (6, 4)
    assert list(contents(root, second)) == ["sample.png"]


def test_arrays_of_many_kinds(seed: int) -> None:
    """Integers are 0 to 255, floats 0 to 1, booleans black or white; NaN is black."""
    chance = np.random.default_rng(seed)
    grey = chance.integers(0, 256, (5, 7), "uint8")
    colour = chance.integers(0, 256, (5, 7, 3), "uint8")
    alpha = chance.integers(0, 256, (5, 7, 4), "uint8")
    for array in (grey, colour, alpha):
        assert np.array_equal(pixels(array), array)
        assert np.array_equal(pixels(array / 255), array)
        assert np.array_equal(pixels((array / 255).astype("float32")), array)
        assert np.array_equal(pixels(array.astype("int64")), array)
    assert np.array_equal(pixels(grey[:, :, None]), grey)
    assert np.array_equal(pixels(grey[::-1, ::2]), grey[::-1, ::2])
    assert pixels(np.array([[True, False]])).tolist() == [[255, 0]]
    special = np.array([[math.nan, math.inf, -math.inf, 2.0, -1.0]])
    assert pixels(special).tolist() == [[0, 255, 0, 255, 0]]
    assert pixels(np.array([[300, -5]])).tolist() == [[255, 0]]


def test_tensors_have_their_channels_first(seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), "uint8")
    assert np.array_equal(pixels(Tensor(array.transpose(2, 0, 1))), array)
    assert np.array_equal(pixels(Tensor(array)), array)
    with pytest.raises(ArtifactError, match=r"image\.cpu\(\)"):
        image_content(Tensor(array, is_cuda=True))


def test_files_and_pil_images(root: Path, run: Run, tmp_path: Path) -> None:
    """A file is kept as it is, whatever it is; an image of PIL becomes PNG."""
    (tmp_path / "photo.jpeg").write_bytes(b"no image at all")
    run.log_image(tmp_path / "photo.jpeg", "photo")
    run.log_image(Image.new("L", (2, 3)), "grey")
    photo, grey = (contents(root, request) for request in requests(root))
    assert photo == {"photo.jpeg": b"no image at all"}
    assert Image.open(io.BytesIO(grey["grey.png"])).size == (2, 3)


@pytest.mark.parametrize(
    "image",
    [np.zeros(3), np.zeros((2, 3, 5)), np.zeros((0, 3)), np.zeros((2, 2, 2, 3)), [[1, 2]], None,
     np.array([["a"]]), np.zeros((2, 2), "complex64"), np.zeros((1, 1), object), 7],
)  # fmt: skip
def test_what_is_no_image(image: Any) -> None:
    with pytest.raises(ArtifactError):
        image_content(image)


def test_images_beyond_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.artifacts.media.PIXELS_MAX", 100)
    with pytest.raises(ArtifactError, match="20 x 10 pixels"):
        image_content(np.zeros((10, 20)))


def test_modes_that_png_has_not(run: Run) -> None:
    with pytest.raises(ArtifactError, match=r"\.convert"):
        run.log_image(Image.new("CMYK", (2, 2)), "cmyk")


def test_figures(root: Path, run: Run) -> None:
    """Of pyplot, of axes; anything else is told what to do."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots()
    axes.plot([1, 2, 3])
    run.log_figure(figure, "curve", step=3)
    run.log_figure(axes, "curve")
    plt.close(figure)
    for request in requests(root):
        assert request.type == "image"
        assert Image.open(io.BytesIO(contents(root, request)["curve.png"])).format == "PNG"
    with pytest.raises(ArtifactError, match="matplotlib figure, not int"):
        run.log_figure(7, "no")


def rows_of(root: Path) -> list[dict[str, Any]]:
    (content,) = contents(root, requests(root)[-1]).values()
    return [json.loads(line) for line in content.decode("utf-8").splitlines()]


class Frame:
    """As much of a pandas data frame as a table needs."""

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return [{"a": 1}]


def test_tables(root: Path, run: Run) -> None:
    """Rows, columns, generators and frames become one JSON object per line."""
    rows = [
        {"id": 1, "text": "ü\n\u2028", "p": math.nan},
        {"id": 2, "tags": ["x"], "np": np.int64(3)},
    ]
    expected = [{"id": 1, "text": "ü\n\u2028", "p": "NaN"}, {"id": 2, "tags": ["x"], "np": 3}]
    run.log_table(rows, "t")
    (content,) = contents(root, requests(root)[-1]).values()
    assert [json.loads(line) for line in content.split(b"\n") if line] == expected
    run.log_table((row for row in [{"a": 1}]), "t")
    assert rows_of(root) == [{"a": 1}]
    run.log_table({"a": [1, 2], "b": "xy"}, "t")
    assert rows_of(root) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    run.log_table(Frame(), "t")
    assert rows_of(root) == [{"a": 1}]
    run.log_table([], "t")
    assert rows_of(root) == []
    assert {(r.type, tuple(r.metadata)) for r in requests(root)} == {("table", ())}


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([1, 2], "a row of a table"),
        ("text", "takes rows"),
        (7, "takes rows"),
        ({"a": [1], "b": []}, "lengths"),
    ],
)
def test_what_is_no_table(run: Run, rows: Any, match: str) -> None:
    with pytest.raises(ArtifactError, match=match):
        run.log_table(rows, "t")
