"""The expected final tables: a folder with expected.json and one Parquet file per table.

expected.json holds `{"tables": [{"database", "table", "key": […], "ignore": […], "on_delete", "file", …}]}`.
`ignore` names columns that the final table may have besides the expected ones (`Op`, the timestamp column);
a name that ends in `*` stands for every name with that beginning.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write(folder: Path, entries: list[dict], tables: list[pa.Table], **more):
    """Writes the entries and, beside them, their tables; `more` goes into expected.json as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for n, (entry, table) in enumerate(zip(entries, tables, strict=True)):
        entry["file"] = f"{n}.parquet"
        pq.write_table(table, folder / entry["file"])
    text = json.dumps({"tables": entries, **more}, indent=1, ensure_ascii=False)
    (folder / "expected.json").write_text(text, encoding="utf-8")


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / "expected.json").read_text(encoding="utf-8"))["tables"]


def table(folder: Path, entry: dict) -> pa.Table:
    return pq.ParquetFile(folder / entry["file"]).read()


def path(entry: dict) -> str:
    """The table's path below the sink's folder, not encoded."""
    return f"{entry['database']}/{entry['table']}"


def is_ignored(entry: dict, column: str) -> bool:
    patterns = entry.get("ignore", [])
    return any(column == pattern or (pattern.endswith("*") and column.startswith(pattern[:-1])) for pattern in patterns)
