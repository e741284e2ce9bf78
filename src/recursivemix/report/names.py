"""Names that options of pictures and tables take. Standard library only."""

from typing import Literal

Theme = Literal["light", "dark"]
Format = Literal["csv", "json", "parquet"]
