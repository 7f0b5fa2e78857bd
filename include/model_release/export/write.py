"""The file that is served: one, or two where the weights are too large for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

#: Above this the weights need a file of their own: a protobuf ends at 2 GiB.
MOST_BYTES = 1_800_000_000
_LENGTH_DELIMITED = 2
_CHUNK_BYTES = 2**24


def put(model: Any, raw: Path, path: Path, most_bytes: int) -> list[Path]:
    """
    Move a graph (`model`, without its weights) and the weights beside `raw` to `path`; return the files.

    Nothing is at `path` before all of it is. Weights of up to `most_bytes` go into the file itself.
    """
    data, beside = raw.with_name(f"{raw.name}.data"), path.with_name(f"{path.name}.data")
    if data.exists() and data.stat().st_size > most_bytes:
        data.replace(beside)
        raw.replace(path)
        return [path, beside]
    whole = raw.with_name(f"{raw.name}.whole")
    with whole.open("wb") as stream:
        _write_whole(model, data, stream)
    whole.replace(path)
    beside.unlink(missing_ok=True)
    return [path]


def _write_whole(model: Any, data: Path, stream: IO[bytes]) -> None:
    """
    Write a ModelProto with its weights inside, tensor by tensor, so that memory never holds the file.

    A message is its fields in any order, each with its length before it (protobuf's encoding); the lengths are known
    from the graph and the sizes of the tensors.
    """
    import onnx

    graph, rest = onnx.GraphProto(), onnx.ModelProto()
    graph.CopyFrom(model.graph)
    del graph.initializer[:]
    rest.CopyFrom(model)
    rest.ClearField("graph")
    body = graph.SerializeToString(deterministic=True)
    records = [_record(tensor) for tensor in model.graph.initializer]
    tag = _tag(onnx.GraphProto, "initializer")
    size = len(body) + sum(len(tag) + len(_varint(length)) + length for _, _, length in records)
    stream.write(rest.SerializeToString(deterministic=True))
    stream.write(_tag(onnx.ModelProto, "graph") + _varint(size) + body)
    for head, place, length in records:
        stream.write(tag + _varint(length) + head)
        if place is not None:
            with data.open("rb") as weights:
                weights.seek(place[0])
                _copy(weights, stream, place[1])


def _record(tensor: Any) -> tuple[bytes, tuple[int, int] | None, int]:
    """Return a tensor's bytes up to its weights, where those lie (offset, length), and its whole length."""
    import onnx

    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        inside = tensor.SerializeToString(deterministic=True)
        return inside, None, len(inside)
    facts = {entry.key: entry.value for entry in tensor.external_data}
    place = int(facts.get("offset", 0)), int(facts["length"])
    bare = onnx.TensorProto()
    bare.CopyFrom(tensor)
    del bare.external_data[:]
    bare.ClearField("data_location")
    head = bare.SerializeToString(deterministic=True) + _tag(onnx.TensorProto, "raw_data") + _varint(place[1])
    return head, place, len(head) + place[1]


def _copy(source: IO[bytes], target: IO[bytes], length: int) -> None:
    while length:
        chunk = source.read(min(_CHUNK_BYTES, length))
        if not chunk:
            message = "the file of weights ends before its last tensor"
            raise EOFError(message)
        target.write(chunk)
        length -= len(chunk)


def _tag(message: Any, field: str) -> bytes:
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


def _varint(number: int) -> bytes:
    return bytes(_septets(number))


def _septets(number: int) -> Iterator[int]:
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number
