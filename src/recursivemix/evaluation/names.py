"""Names that options of predictions and activation maps take. Standard library only."""

from typing import Literal

Tta = Literal["flip"]
Method = Literal["cam", "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "scorecam"]
