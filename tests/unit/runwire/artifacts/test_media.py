"""Images, figures and tables: the kept file equals the logged object."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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


def test_log_image_makes_an_artifact_with_its_step(root: Path, run: Run) -> None:
    """The file has the last part of the name; without a step it gets the implicit one."""
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


def test_arrays_of_every_dtype_become_the_same_pixels(seed: int) -> None:
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


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.array([[0, 2048, 4095]], "uint16"), ([0, 127, 255], "4095 is white")),
        (np.array([[0, 65535]], "uint16"), ([0, 255], "65535 is white")),
        (np.array([[0, 255]], "uint16"), ([0, 255], "")),
        (np.array([[-1.0, 0.0, 1.0]]), ([0, 128, 255], "-1 is black")),
        (np.array([[0.0, 100.0, 255.0]]), ([0, 100, 255], "255 is white")),
        (np.array([[0.0, 0.5, 200.0]], "float32"), ([0, 1, 200], "255 is white")),
        (np.array([[-2.1, 2.6]]), ([0, 255], "-2.1 is black")),
        (np.array([[-0.02, 1.01]]), ([0, 255], "")),
        (np.array([[-100, 100]]), ([0, 255], "-100 is black")),
        (np.array([[70.0, 70.0]]), ([70, 70], "255 is white")),
        (np.array([[0.0, 1.0, 2.0]]), ([0, 128, 255], "2 is white")),
    ],
)
def test_image_of_another_range_is_scaled_with_a_sentence(
    run: Run, caplog: pytest.LogCaptureFixture, image: Any, expected: tuple[list[int], str]
) -> None:
    """No image becomes white, or loses half of its values, without a word."""
    row, sentence = expected
    assert pixels(image)[0].tolist() == row
    run.log_image(image, "sample")
    run.log_image(image, "sample")
    lines = [record.getMessage() for record in caplog.records]
    assert [sentence in line for line in lines] == ([True] if sentence else [])


def test_tensors_with_channels_first_are_transposed(seed: int) -> None:
    """A tensor CxHxW becomes the image HxWxC; one on a GPU is refused."""
    array = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), "uint8")
    assert np.array_equal(pixels(Tensor(array.transpose(2, 0, 1))), array)
    assert np.array_equal(pixels(Tensor(array)), array)
    with pytest.raises(ArtifactError, match=r"image\.cpu\(\)"):
        image_content(Tensor(array, is_cuda=True))


def test_image_files_are_kept_and_pil_images_become_png(
    root: Path, run: Run, tmp_path: Path
) -> None:
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
def test_log_image_refuses_other_objects_and_shapes(image: Any) -> None:
    """Wrong types, shapes and dtypes raise ArtifactError."""
    with pytest.raises(ArtifactError):
        image_content(image)


def test_image_above_the_pixel_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has width and height of the image."""
    monkeypatch.setattr("runwire.artifacts.media.PIXELS_MAX", 100)
    with pytest.raises(ArtifactError, match="20 x 10 pixels"):
        image_content(np.zeros((10, 20)))


def test_image_mode_that_png_lacks_is_refused(run: Run) -> None:
    """The error advises to convert it."""
    with pytest.raises(ArtifactError, match=r"\.convert"):
        run.log_image(Image.new("CMYK", (2, 2)), "cmyk")


def test_log_figure_takes_figures_and_axes(root: Path, run: Run) -> None:
    """Figures, and objects with a figure, become PNG; anything else is refused with advice."""
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


def test_log_table_writes_one_json_object_per_row(root: Path, run: Run) -> None:
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


def test_table_of_a_frame_keeps_index_dates_and_missing_values(root: Path, run: Run) -> None:
    """Missing cells are null, dates ISO 8601, and an index that says something is a column."""
    frame = pd.DataFrame(
        {
            "loss": [1.5, None],
            "n": pd.array([3, None], "Int64"),
            "at": [pd.Timestamp("2026-01-02T03:04"), pd.NaT],
            ("a", "b"): ["x", None],
        }
    )
    run.log_table(frame, "t")
    assert rows_of(root) == [
        {"loss": 1.5, "n": 3, "at": "2026-01-02T03:04:00", "a/b": "x"},
        {"loss": None, "n": None, "at": None, "a/b": None},
    ]
    run.log_table(frame[["loss"]].set_index(pd.Index(["p", "q"], name="id")), "t")
    assert rows_of(root) == [{"id": "p", "loss": 1.5}, {"id": "q", "loss": None}]
    run.log_table(frame[["loss"]].iloc[1:], "t")
    assert rows_of(root) == [{"index": 1, "loss": None}]
    run.log_table(pd.DataFrame({"id": [1]}, index=pd.Index([7], name="id")), "t")
    assert rows_of(root) == [{"index of the table": 7, "id": 1}]
    run.log_table(pd.Series([0.5], index=["a"], name="score"), "t")
    assert rows_of(root) == [{"index": "a", "score": 0.5}]
    with pytest.raises(ArtifactError, match="same name"):
        run.log_table(pd.DataFrame([[1, 2]], columns=["a", "a"]), "t")


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([1, 2], "a row of a table"),
        ("text", "takes rows"),
        (7, "takes rows"),
        ({"a": [1], "b": []}, "lengths"),
    ],
)
def test_log_table_refuses_values_that_are_not_rows(run: Run, rows: Any, match: str) -> None:
    """Texts, numbers and columns of different lengths are refused with a sentence."""
    with pytest.raises(ArtifactError, match=match):
        run.log_table(rows, "t")
