"""Images, figures and tables as the bytes of files that everything else can read."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from runwire.errors import ArtifactError
from runwire.safe_text import json_text

__all__ = ["figure_png", "image_content", "table_jsonl"]

# As PIL's own limit for what it opens without a warning: an image of 89 million pixels.
PIXELS_MAX: Final = 89_478_485
_CHANNELS: Final = (1, 3, 4)
# Floats up to here are no bytes: as such the image would look black.
_DIM_MAX: Final = 16.0
# Share of its range by which a float image may leave it.
_FREE_NAME: Final = "index of the table"
_OVERSHOOT: Final = 0.05


Note = Callable[[str], None]


def _ignore(_sentence: str) -> None:
    """Drop a note."""


def image_content(image: Any, note: Note = _ignore) -> tuple[Path | bytes, str]:
    """Return an image's file or bytes, and its suffix.

    Shapes: arrays HxW, HxWx1, HxWx3, HxWx4; torch tensors also with the channels first.
    Units: integers 0 to 255, floats 0 to 1; other ranges are scaled, and `note` gets the sentence.
    Raises: ArtifactError.
    """
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return path, path.suffix
    if not hasattr(image, "save"):
        image = _from_array(_pixels(image, note))
    with io.BytesIO() as file:
        _checked_save(image, file)
        return file.getvalue(), ".png"


def figure_png(figure: Any) -> bytes:
    """Return a matplotlib figure (or an object's `.figure`) as PNG. Raises: ArtifactError."""
    drawn: Any = figure if hasattr(figure, "savefig") else getattr(figure, "figure", None)
    if not hasattr(drawn, "savefig"):
        raise ArtifactError(
            f"log_figure takes a matplotlib figure, not {type(figure).__name__}: for other "
            "libraries render it and call log_image or log_artifact"
        )
    with io.BytesIO() as file:
        drawn.savefig(file, format="png")
        return file.getvalue()


def table_jsonl(rows: Any) -> bytes:
    """Return a table as JSON Lines: one object per row, readable by ClickHouse, pandas and jq.

    Shapes: rows as mappings, columns as a mapping of sequences, or a pandas or polars frame.
    Raises: ArtifactError.
    """
    lines = [f"{_line(row)}\n" for row in _rows(rows)]
    return "".join(lines).encode("utf-8")


def _name(column: Any) -> str:
    """Return the name of a column; the levels of a frame's columns are joined by "/"."""
    return "/".join(map(str, column)) if isinstance(column, tuple) else str(column)


def _line(row: Any) -> str:
    if not isinstance(row, Mapping):
        raise ArtifactError(
            f"a row of a table is a {type(row).__name__}: log_table takes rows as mappings, "
            "columns as a mapping of lists, or a data frame"
        )
    # Value by value: the limit of 64 KiB is one of a cell.
    return "{" + ",".join(f"{json.dumps(_name(k))}:{json_text(v)}" for k, v in row.items()) + "}"


def _rows(rows: Any) -> Iterable[Any]:
    if isinstance(rows, Mapping):
        return _transposed(rows)
    if callable(getattr(rows, "to_dicts", None)):
        return rows.to_dicts()  # type: ignore[no-any-return]  # polars
    if callable(getattr(rows, "reset_index", None)):
        return _records_of(rows)
    if callable(getattr(rows, "to_dict", None)):
        return rows.to_dict("records")  # type: ignore[no-any-return]
    if isinstance(rows, (str, bytes)) or not isinstance(rows, Iterable):
        raise ArtifactError(f"log_table takes rows, not a {type(rows).__name__}")
    return rows


def _records_of(frame: Any) -> Iterable[Any]:
    """Return the rows of a pandas frame or series: missing values as None, with its own index."""
    if not hasattr(frame, "columns"):
        frame = frame.to_frame()
    if not frame.columns.is_unique:
        raise ArtifactError("the columns of the table have the same name: rename them first")
    index = frame.index
    # A plain count of the rows says nothing.
    if type(index).__name__ != "RangeIndex" or index.start != 0 or index.step != 1 or index.name:
        taken = set(map(str, frame.columns)) & {str(name) for name in index.names}
        frame = (frame.rename_axis(_FREE_NAME) if taken else frame).reset_index()
    plain = frame.astype(object)
    return plain.where(frame.notna(), None).to_dict("records")  # type: ignore[no-any-return]


def _transposed(columns: Mapping[Any, Any]) -> Iterable[dict[str, Any]]:
    lists: dict[str, Sequence[Any]] = {str(name): list(values) for name, values in columns.items()}
    lengths = {len(values) for values in lists.values()}
    if len(lengths) > 1:
        sizes = ", ".join(f"{name}: {len(values)}" for name, values in list(lists.items())[:8])
        raise ArtifactError(f"the columns of a table have different lengths ({sizes})")
    for cells in zip(*lists.values(), strict=True):
        yield dict(zip(lists, cells, strict=True))


def _pixels(image: Any, note: Note) -> Any:
    """Return a numpy array HxW or HxWx(1, 3, 4) of bytes."""
    array, has_channels_first = image, False
    if callable(getattr(image, "detach", None)):
        if getattr(image, "is_cuda", False):
            raise ArtifactError(
                "the image is on a GPU: log image.cpu(); runwire never waits for it"
            )
        tensor = image.detach()
        array = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
        has_channels_first = array.ndim == 3 and array.shape[0] in _CHANNELS
    shape, kind = getattr(array, "shape", None), getattr(getattr(array, "dtype", None), "kind", "")
    if shape is None or kind not in "biuf":
        raise ArtifactError(
            f"log_image takes a path, a PIL image, an array or a CPU tensor, not "
            f"{type(image).__name__}"
        )
    if has_channels_first:
        array = array.transpose(1, 2, 0)
    shape = array.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in _CHANNELS)) or 0 in shape:
        raise ArtifactError(
            f"an image has the shape height x width, or that x 1, 3 or 4; this one has {shape}"
        )
    if shape[0] * shape[1] > PIXELS_MAX:
        raise ArtifactError(f"an image of {shape[1]} x {shape[0]} pixels is too large: scale it")
    array = _bytes_of(array, kind, note)
    return array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _bytes_of(array: Any, kind: str, note: Note) -> Any:
    """Return an array of any range as bytes 0 to 255; NaN is black."""
    if kind == "b":
        return array.astype("uint8") * 255
    exact = array.astype("float64")
    finite = exact[abs(exact) < float("inf")]
    ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low, high = _range_of(*ends, is_float=kind == "f")
    if (low, high) != ((0.0, 1.0) if kind == "f" else (0.0, 255.0)):
        usual = "0 to 1" if kind == "f" else "0 to 255"
        note(
            f"its {array.dtype} values from {ends[0]:.6g} to {ends[1]:.6g} were scaled so that "
            f"{low:.6g} is black and {high:.6g} is white; give {usual} to choose yourself"
        )
    exact[exact != exact] = low  # noqa: PLR0124 - NaN is what differs from itself
    scaled = (exact - low) * (255.0 / (high - low)) + (0.5 if kind == "f" else 0.0)
    return scaled.clip(0.0, 255.0).round(6).astype("uint8")


def _range_of(low: float, high: float, *, is_float: bool) -> tuple[float, float]:
    """Return the values of black and white for an image whose values lie between the two.

    Usual ranges are taken as they are; a few percent beyond them are the overshoot of a model.
    """
    if not is_float:
        if low >= 0.0 and high <= 255.0:
            return 0.0, 255.0
    elif low >= 0.0 and _DIM_MAX < high <= 255.0:
        return 0.0, 255.0
    else:
        for black, white in ((0.0, 1.0), (-1.0, 1.0)):
            slack = _OVERSHOOT * (white - black)
            if black - slack <= low and high <= white + slack:
                return black, white
    return low, high if high > low else low + 1.0


def _from_array(array: Any) -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise ArtifactError(
            "writing an array as an image needs pillow: pip install 'runwire[media]'"
        ) from None
    return Image.fromarray(array)


def _checked_save(image: Any, file: io.BytesIO) -> None:
    try:
        image.save(file, format="PNG")
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{type(image).__name__} cannot be written as PNG: {error}; convert it first, for "
            "example with .convert('RGB')"
        ) from error
