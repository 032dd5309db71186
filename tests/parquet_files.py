"""Parquet shards as the Hugging Face library writes them."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet


def write_parquet(
    path: Path, images: list[tuple[bytes | None, str | None, int | None]], names: list[str] | None, rows: int = 100
) -> None:
    """Write (content, file name, label) as the Hugging Face library does, `rows` in a row group."""
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    pictures = [{"bytes": content, "path": name} for content, name, _ in images]
    labels = pyarrow.array([label for _, _, label in images], type=pyarrow.int64())
    table = pyarrow.table({"image": pyarrow.array(pictures, type=kind), "label": labels})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=rows)
