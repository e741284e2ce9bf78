"""A mixer where timm's `Mixup` was, in a loop written like timm's train.py.

    python examples/timm_mixup_switch.py --mixup recursivemix    (or cutmix, or timm)

`input, target = mixup_fn(input, target)`, `SoftTargetCrossEntropy` and `mixup_fn.mixup_enabled = False`
work with every mixer unchanged. RecursiveMix needs one more call, `remember`. With `omega=0` it trains on
the fused labels alone, so the model stays a plain timm model and `remember` needs no logits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import timm
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import random_seed
from torch.utils.data import DataLoader

from digits import NUM_CLASSES, accuracy, load_digits_tensors
from recursivemix import CutMix, Mixer, RecursiveMix

MIXUPS: dict[str, Callable[[], Mixup | Mixer]] = {
    "timm": lambda: Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=NUM_CLASSES),
    "cutmix": lambda: CutMix(NUM_CLASSES),
    "recursivemix": lambda: RecursiveMix(NUM_CLASSES, omega=0),
}


def train(mixup_fn: Mixup | Mixer, epochs: int, mixup_off_epoch: int) -> float:
    """Train a small timm model, unmixed from `mixup_off_epoch` on, and return the test accuracy."""
    random_seed(0)  # timm's Mixup draws from NumPy's global stream, which this seeds as well
    train_set, test_set = load_digits_tensors()
    loader = DataLoader(train_set, batch_size=64, shuffle=True)
    model = timm.create_model("test_resnet", num_classes=NUM_CLASSES)
    loss_fn = SoftTargetCrossEntropy()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-3)

    for epoch in range(epochs):
        if mixup_off_epoch and epoch >= mixup_off_epoch:
            mixup_fn.mixup_enabled = False
        if isinstance(mixup_fn, Mixer):
            mixup_fn.start_epoch()
        model.train()
        for input, target in loader:
            mixed = mixup_fn(input, target)  # a tuple from timm, a MixedBatch here: both unpack
            input, target = mixed
            loss = loss_fn(model(input), target)
            if isinstance(mixup_fn, Mixer):
                mixup_fn.remember(mixed)  # without it RecursiveMix has nothing to paste; no-op in CutMix
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return accuracy(model, test_set)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--mixup", choices=MIXUPS, default="recursivemix")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--mixup-off-epoch", type=int, default=6, help="0 keeps it on")
    args = parser.parse_args()
    print(f"test accuracy {train(MIXUPS[args.mixup](), args.epochs, args.mixup_off_epoch):.3f}")
