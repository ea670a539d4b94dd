"""A small column table: the evidence of a plan, the cells of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Table:
    """Columns of equal length. Missing values are ``None``.

    Example:
        >>> Table.of([{"lr": 0.1, "loss": 2.0}, {"lr": 0.2, "loss": 1.0}]).where(lr=0.2)["loss"]
        [1.0]
    """

    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Table:
        rows = list(rows)
        names = list(dict.fromkeys(name for row in rows for name in row))
        return cls({name: [row.get(name) for row in rows] for name in names})

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; there are {', '.join(self.columns) or 'none'}")
        return list(self.columns[name])

    def rows(self) -> Iterator[dict[str, Any]]:
        for i in range(len(self)):
            yield {name: values[i] for name, values in self.columns.items()}

    def where(self, keep: Callable[[dict[str, Any]], bool] | None = None, /, **equal: Any) -> Table:
        """Rows for which ``keep(row)`` holds and every named column equals the value given."""
        return Table.of(
            row for row in self.rows() if (keep is None or keep(row)) and all(row[k] == v for k, v in equal.items())
        )

    def to_dict(self) -> dict[str, list[Any]]:
        return {name: list(values) for name, values in self.columns.items()}

    def to_parquet(self, path: Path) -> None:
        """Write a Parquet file, readable by pandas, polars and DuckDB."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({name: list(values) for name, values in self.columns.items()}), path)
