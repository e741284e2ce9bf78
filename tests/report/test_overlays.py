"""Pictures drawn over: every pixel of a mask has a colour of its class."""

import torch

from recursivemix.mixing import DenseTarget
from recursivemix.report.overlays import COLOURS, draw_target


def test_masks_that_overlap_keep_the_colour_of_the_first():
    """torchvision turns what two masks share black."""
    masks = torch.zeros(3, 20, 20, dtype=torch.bool)
    masks[0, 4:12, 4:12] = masks[1, 8:16, 8:16] = masks[2, 10:18, 2:10] = True
    boxes = torch.tensor([[0.0, 0, 20, 20]] * 3)  # drawn over the masks, at the border alone
    labels = [2, 2, 4]
    white = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    drawn = draw_target(white, DenseTarget(boxes, torch.tensor(labels), masks=masks), times=2)
    colours = [torch.tensor(list(bytes.fromhex(COLOURS[label][1:]))) for label in labels]
    for y, x in [(6, 6), (9, 9), (9, 11), (13, 13), (11, 9), (13, 9), (15, 5), (2, 2)]:
        first = next((i for i in range(3) if masks[i, y, x]), None)
        expected = torch.tensor([255] * 3) if first is None else 0.55 * 255 + 0.45 * colours[first]
        assert (drawn[:, 2 * y + 1, 2 * x + 1] - expected).abs().max() <= 1, (y, x)
