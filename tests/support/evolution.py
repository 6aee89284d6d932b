"""Compatibility of two Avro schemas: the reasons why one cannot read data of the other.

Pure functions over plain Avro JSON as Python objects. Stricter than Avro in two points: named
types match by full name only (a renamed record is a new topic), and a logical type must stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_PROMOTIONS = {
    "int": ("int", "long", "float", "double"),
    "long": ("long", "float", "double"),
    "float": ("float", "double"),
    "string": ("string", "bytes"),
    "bytes": ("bytes", "string"),
}
_NAMED = ("record", "error", "enum", "fixed")


def incompatibilities(reader: Any, writer: Any) -> list[str]:
    """Return why `reader` cannot read all that `writer` can write; empty when it can."""
    pair = _Pair(_names(reader, "", {}), _names(writer, "", {}))
    return list(pair.type_reasons(reader, writer, "record"))


class _Pair:
    """Walks both schemas side by side; records may contain themselves."""

    def __init__(self, reader_names: dict[str, Any], writer_names: dict[str, Any]) -> None:
        self._reader_names = reader_names
        self._writer_names = writer_names
        self._seen: set[str] = set()

    def type_reasons(self, reader: Any, writer: Any, where: str) -> Iterator[str]:
        reader, writer = _plain(reader, self._reader_names), _plain(writer, self._writer_names)
        if isinstance(writer, list):
            for branch in writer:
                yield from self.type_reasons(reader, branch, where)
        elif isinstance(reader, list):
            if all(list(self.type_reasons(branch, writer, where)) for branch in reader):
                yield f"{where}: written as {_show(writer)}, which is no branch of {_show(reader)}"
        else:
            yield from self._single_reasons(reader, writer, where)

    def _single_reasons(self, reader: Any, writer: Any, where: str) -> Iterator[str]:
        reader_kind, writer_kind = _kind(reader), _kind(writer)
        if reader_kind not in _PROMOTIONS.get(writer_kind, (writer_kind,)):
            yield f"{where}: type changed from {_show(writer)} to {_show(reader)}"
            return
        if reader_kind in _NAMED:
            yield from self._named_reasons(reader, writer, where)
        elif reader_kind == "array":
            yield from self.type_reasons(reader["items"], writer["items"], f"{where}[]")
        elif reader_kind == "map":
            yield from self.type_reasons(reader["values"], writer["values"], f"{where}{{}}")
        if _logical(reader) != _logical(writer):
            yield f"{where}: logical type changed from {_logical(writer)} to {_logical(reader)}"

    def _named_reasons(self, reader: Any, writer: Any, where: str) -> Iterator[str]:
        if _full_name(reader, "") != _full_name(writer, ""):
            was, now = _full_name(writer, ""), _full_name(reader, "")
            yield f"{where}: {reader['type']} renamed from {was} to {now}"
            return
        if reader["type"] == "enum":
            gone = set(writer["symbols"]) - set(reader["symbols"])
            if gone and "default" not in reader:
                yield f"{where}: enum symbols removed without a default: {sorted(gone)}"
        elif reader["type"] == "fixed":
            if reader["size"] != writer["size"]:
                yield f"{where}: size changed from {writer['size']} to {reader['size']}"
        else:
            yield from self._record_reasons(reader, writer, where)

    def _record_reasons(self, reader: Any, writer: Any, where: str) -> Iterator[str]:
        name = _full_name(reader, "")
        if name in self._seen:  # a record that contains itself, or is used twice
            return
        self._seen.add(name)
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            place = f"{where}.{field['name']}"
            names = (field["name"], *field.get("aliases", ()))
            source = next((written[name] for name in names if name in written), None)
            if source is not None:
                yield from self.type_reasons(field["type"], source["type"], place)
            elif "default" not in field:
                yield f"{place}: not in the older schema and without a default"


def _plain(schema: Any, names: dict[str, Any]) -> Any:
    """Resolve a reference by name and unwrap {"type": {...}}."""
    while isinstance(schema, dict) and isinstance(schema["type"], (dict, list)):
        schema = schema["type"]
    if isinstance(schema, str):
        return names.get(schema, schema)
    return schema


def _names(schema: Any, namespace: str, found: dict[str, Any]) -> dict[str, Any]:
    """Collect named types by full name and, within their own namespace, by short name."""
    if isinstance(schema, list):
        for branch in schema:
            _names(branch, namespace, found)
    elif isinstance(schema, dict):
        kind = schema["type"]
        if isinstance(kind, str) and kind in _NAMED:
            full = _full_name(schema, namespace)
            namespace = full.rpartition(".")[0]
            found[full] = found[schema["name"].rpartition(".")[2]] = schema
        for child in _children(schema):
            _names(child, namespace, found)
    return found


def _children(schema: dict[str, Any]) -> list[Any]:
    parts = [schema[key] for key in ("items", "values") if key in schema]
    if not isinstance(schema["type"], str):
        parts.append(schema["type"])
    return parts + [field["type"] for field in schema.get("fields", ())]


def _full_name(schema: dict[str, Any], namespace: str) -> str:
    name: str = schema["name"]
    space: str = schema.get("namespace", namespace)
    return name if "." in name or not space else f"{space}.{name}"


def _kind(schema: Any) -> str:
    kind: str = schema["type"] if isinstance(schema, dict) else schema
    return kind


def _logical(schema: Any) -> str | None:
    return schema.get("logicalType") if isinstance(schema, dict) else None


def _show(schema: Any) -> str:
    if isinstance(schema, list):
        return "[" + ", ".join(map(_show, schema)) + "]"
    kind = _kind(schema)
    if kind == "array":
        return f"array of {_show(schema['items'])}"
    if kind == "map":
        return f"map of {_show(schema['values'])}"
    return f"{kind} {schema['name']}" if kind in _NAMED and isinstance(schema, dict) else kind
