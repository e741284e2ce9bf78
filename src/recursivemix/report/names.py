"""Names that options of pictures and tables take. Standard library only."""

from typing import Literal

Theme = Literal["light", "dark"]
Format = Literal["csv", "json", "parquet"]
TOP_K = 5
"""Classes that a prediction lists unless told otherwise."""
