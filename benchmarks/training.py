"""Images per second of training, ours beside a bare loop, timm and torchvision.

    python benchmarks/training.py --out results/training.json
    python benchmarks/training.py --large --out results/training-224.json

Three comparisons, each with its rows in turn within a round; a ratio is the median over rounds of our
speed against another row's of the same round.

equal     The same precision (bfloat16 autocast where the hardware has it), channels_last, images held in
          memory, the same crops and flips: our trainer with Lightning and all it does, against a plain
          loop.
defaults  What a user gets who sets nothing: ours as `recursivemix fit --data DIR --model resnet18`, against
          timm's loop with its Mixup and torchvision's reference transforms with v2.CutMix, both in float32
          and contiguous, images read by two workers.
data      No network: our batches from memory against a two-worker PIL loader of the same files.

Ours is timed between steps inside the first epoch, so evaluation is left out, and so are the checkpoints
by the clock (at most 2 % of a run's time). Without --data it makes a folder of small JPEG files.

With --large the images are JPEG files of 500x375 pixels, read by two workers in every row, and go to a
smaller network with 224 pixels a side; the only comparison is that of defaults.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import Mixup, create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, default_collate
from torchvision import transforms as v1
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from images import photograph
from recursivemix.data.atomic_write import write_json
from recursivemix.data.augment import augmentation_of
from recursivemix.data.batches import TrainingBatches
from recursivemix.data.cache import stack
from recursivemix.data.images import IMAGENET_MEAN, IMAGENET_STD, ImageData, StackedImages
from recursivemix.data.open import open_data
from recursivemix.data.order import TrainingOrder
from recursivemix.models import SMALL_IMAGE
from recursivemix.models.create import create_model
from recursivemix.training.devices import PRECISIONS
from recursivemix.training.environment import environment
from timing import (
    add_options,
    autocast,
    paired_ratio,
    precision_of,
    prepare,
    print_table,
    quartiles,
    synchronize,
)
from trainer_speed import trainer_speed

MODEL, LARGE_MODEL = "resnet18", "mobilenetv3_small_050"
WORKERS = 2
CLASSES = 10
"""Of the folder that is made where none is given."""
COMPARISONS = ("equal", "defaults", "data")
GOALS = (
    # comparison, our row, against, at least so many times as fast
    ("equal", "trainer, no mixing", "bare loop", 1.0),
    ("defaults", "recursivemix", "timm", 2.5),
    ("defaults", "recursivemix", "torchvision", 2.5),
    ("data", "recursivemix", "PIL loader", 15.0),
)

LARGE_GOALS = (("defaults", "recursivemix", "timm", 1.5),)

Batch = tuple[Tensor, Tensor]
Sample = Callable[[], float]
"""One measurement: images per second."""


class Row(NamedTuple):
    """One of the things compared, ready to be measured again and again."""

    name: str
    setting: str
    sample: Sample
    precision: str | None = None
    """As Lightning calls it; ours says it after its first run, and data alone has none."""


class Folder(NamedTuple):
    """The images, and how ours opens them."""

    root: Path
    images: ImageData
    options: dict[str, Any]
    """Of `FitConfig`."""

    @property
    def train(self) -> Path:
        """What the peers read."""
        return self.root / "train" if (self.root / "train").is_dir() else self.root


# -- the images -------------------------------------------------------------------------------------


def write_folder(root: Path, count: int, seed: int, large: bool) -> None:
    """JPEG files of 32x32 smooth random images, or of 500x375; one of each class to evaluate."""
    generator = torch.Generator().manual_seed(seed)
    for i in range(count + CLASSES):
        split = "train" if i < count else "val"
        folder = root / split / f"class{i % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        if large:
            photograph(seed * (count + CLASSES) + i).save(folder / f"{i:06}.jpg", quality=90)
            continue
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        smooth = F.interpolate(coarse, (32, 32), mode="bicubic", antialias=True)[0].clamp(0, 1)
        pixels = (255 * smooth).byte().permute(1, 2, 0).contiguous()
        Image.fromarray(pixels.numpy()).save(folder / f"{i:06}.jpg", quality=90)


def open_folder(root: Path, large: bool) -> Folder:
    """A folder of images, with a share held out where it has nothing to evaluate."""
    held_out = not any((root / name).is_dir() for name in ("val", "test"))
    options = {"data": root, "val_split": 0.1 if held_out else None}
    try:
        images = open_data(**options)
    except ValueError as error:
        raise SystemExit(f"--data: {error}") from error
    if (images.image_size > SMALL_IMAGE) != large:
        raise SystemExit(
            f"--data {root}: its images go to the network with {images.image_size} pixels a side; "
            f"sizes above {SMALL_IMAGE} need --large, others must be given without it"
        )
    return Folder(root, images, options)


# -- the loops of others ----------------------------------------------------------------------------


def bare_batches(
    images: StackedImages, batch_size: int, seed: int, device: torch.device
) -> Iterator[Batch]:
    """Padded crops, flips and normalization by the batch, from one tensor: a loader nobody can blame."""
    size, padding = images.images.shape[-1], images.images.shape[-1] // 8
    pixels = F.pad(images.images, (padding,) * 4).permute(0, 2, 3, 1).contiguous().to(device)
    labels = images.labels.to(device)
    mean, std = (255 * torch.tensor(v, device=device) for v in (IMAGENET_MEAN, IMAGENET_STD))
    generator = torch.Generator().manual_seed(seed)
    steps = torch.arange(size, device=device)
    while True:
        for chosen in torch.randperm(len(labels), generator=generator).to(device).split(batch_size):
            top, left = torch.randint(2 * padding + 1, (2, len(chosen), 1), generator=generator).to(device)
            mirrored = (torch.rand(len(chosen), 1, generator=generator) < 0.5).to(device)
            rows = top + steps  # (B, S)
            columns = left + torch.where(mirrored, size - 1 - steps, steps)
            windows = pixels[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]  # (B, S, S, 3)
            yield ((windows - mean) / std).permute(0, 3, 1, 2), labels[chosen]


def bare_step(model_name: str, classes: int, size: int, device: torch.device) -> Callable[[Batch], None]:
    """Cross-entropy and SGD under autocast, and nothing else."""
    model = create_model(model_name, classes, size).to(device, memory_format=torch.channels_last)
    # The rate changes no time; a small one keeps labels that mean nothing from blowing up.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def step(batch: Batch) -> None:
        images, labels = batch
        with autocast(device):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def timm_loop(
    folder: Folder, options: argparse.Namespace, device: torch.device
) -> tuple[Iterable[Batch], Callable[[Batch], None]]:
    """The loop of timm's train.py with --no-prefetcher: its loader and transforms, Mixup on the batch."""
    size, classes = folder.images.image_size, len(folder.images.classes)
    loader = create_loader(
        create_dataset("", root=str(folder.train), is_training=True),
        input_size=(3, size, size),
        batch_size=options.batch_size,
        is_training=True,
        num_workers=WORKERS,
        use_prefetcher=False,
        pin_memory=device.type == "cuda",
    )
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=classes)
    model = create_model(options.model, classes, size).to(device).train()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.01, momentum=0.9)
    criterion = SoftTargetCrossEntropy()

    def step(batch: Batch) -> None:
        images, targets = mixup(*(tensor.to(device) for tensor in batch))
        loss = criterion(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return loader, step


class CutMixCollate:
    """torchvision's way to mix: on a batch in the loader's worker."""

    def __init__(self, classes: int) -> None:
        self.cutmix = v2.CutMix(num_classes=classes, alpha=1.0)

    def __call__(self, samples: list[Any]) -> Any:
        return self.cutmix(*default_collate(samples))


def torchvision_loop(
    folder: Folder, options: argparse.Namespace, device: torch.device
) -> tuple[Iterable[Batch], Callable[[Batch], None]]:
    """The loop of references/classification with --use-v2: its transforms (PIL), CutMix, its optimizer."""
    size, classes = folder.images.image_size, len(folder.images.classes)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD)),
            v2.ToPureTensor(),
        ]
    )
    data = ImageFolder(str(folder.train), transform)
    loader = DataLoader(
        data,
        batch_size=options.batch_size,
        sampler=RandomSampler(data),
        num_workers=WORKERS,
        pin_memory=device.type == "cuda",
        collate_fn=CutMixCollate(classes),
    )
    model = create_model(options.model, classes, size).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()

    def step(batch: Batch) -> None:
        images, targets = (tensor.to(device, non_blocking=True) for tensor in batch)
        loss = criterion(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # its metric logger reads the loss of every step

    return loader, step


# -- the three comparisons --------------------------------------------------------------------------


def loop_sample(
    batches: Iterable[Batch],
    step: Callable[[Batch], None],
    options: argparse.Namespace,
    device: torch.device,
) -> Sample:
    """Measures a loop that goes on where its last sample ended."""

    def endless() -> Iterator[Batch]:
        while True:
            yield from batches

    stream = endless()

    def sample() -> float:
        for batch in itertools.islice(stream, options.warm_up):
            step(batch)
        synchronize(device)
        start, images = perf_counter(), 0
        for batch in itertools.islice(stream, options.steps):
            step(batch)
            images += len(batch[0])
        synchronize(device)
        return images / (perf_counter() - start)

    return sample


class OurTrainer:
    """Measures our trainer: a short run each time, from its settings on."""

    def __init__(self, folder: Folder, options: argparse.Namespace, **settings: Any) -> None:
        device = "gpu" if options.device == "cuda" else "cpu"
        self.config = {
            **folder.options,
            "model": options.model,
            "batch_size": options.batch_size,
            "device": device,
            "seed": options.seed,
            **settings,
        }
        self.window = (options.warm_up, options.warm_up + options.steps)
        self.held: ImageData | None = None
        self.precision: str | None = None

    def __call__(self) -> float:
        speed = trainer_speed(self.config, [self.window], self.held)
        self.held, self.precision = speed.data, speed.precision
        return speed.images_per_second[0]


def equal_rows(folder: Folder, options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Our trainer against a bare loop."""
    setting = "channels_last, images in memory"
    ours = [
        OurTrainer(folder, options, mixer=mixer, precision=precision_of(device), cache="yes")
        for mixer in ("none", "recursivemix")
    ]
    size, classes = folder.images.image_size, len(folder.images.classes)
    held = stack(folder.images.train, size, WORKERS, False, "training images")
    batches = bare_batches(held, options.batch_size, options.seed, device)
    bare = loop_sample(batches, bare_step(options.model, classes, size, device), options, device)
    return [
        Row("trainer, no mixing", setting, ours[0]),
        Row("trainer, RecursiveMix", setting, ours[1]),
        Row("bare loop", setting, bare, PRECISIONS[precision_of(device)]),
    ]


def default_rows(folder: Folder, options: argparse.Namespace, device: torch.device) -> list[Row]:
    """What each gives whose user sets nothing."""
    peers = {"timm": timm_loop, "torchvision": torchvision_loop}
    setting = f"contiguous, {WORKERS} workers"
    held = f"{WORKERS} workers" if options.large else "images in memory"
    rows = [Row("recursivemix", f"channels_last, {held}", OurTrainer(folder, options))]
    for name, make in peers.items():
        batches, step = make(folder, options, device)
        rows.append(Row(name, setting, loop_sample(batches, step, options, device), "32-true"))
    return rows


def data_rows(folder: Folder, options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Batches alone, without a network."""
    images = folder.images
    size = images.image_size
    held = stack(images.train, size, WORKERS, False, "training images")
    epochs = itertools.count()
    ours = TrainingBatches(
        held,
        TrainingOrder(len(held), options.batch_size, options.seed),
        augmentation_of(images),
        lambda: next(epochs),
        device=device,
        hold=True,
    )
    transform = v1.Compose(
        [
            v1.RandomCrop(size, padding=size // 8),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    data = ImageFolder(str(folder.train), transform)
    # Its workers read ahead while others are measured: as many batches again are left out first. One long
    # epoch, so that it never begins anew.
    timed, ahead = (2, 1) if options.quick else (40, 3 * WORKERS)
    length = (timed + ahead) * options.rounds * options.batch_size
    loader = DataLoader(
        data,
        batch_size=options.batch_size,
        sampler=RandomSampler(data, num_samples=length),
        num_workers=WORKERS,
        pin_memory=device.type == "cuda",
    )

    def bring(batch: Batch) -> None:
        for tensor in batch:
            tensor.to(device, non_blocking=True)

    own = argparse.Namespace(warm_up=5 * timed, steps=5 * timed)
    other = argparse.Namespace(warm_up=ahead, steps=timed)
    return [
        Row("recursivemix", "from memory", loop_sample(ours, bring, own, device)),
        Row("PIL loader", f"{WORKERS} workers, torchvision", loop_sample(loader, bring, other, device)),
    ]


ROWS = {"equal": equal_rows, "defaults": default_rows, "data": data_rows}


def measure(
    comparison: str, folder: Folder, options: argparse.Namespace, device: torch.device
) -> list[dict[str, Any]]:
    """The rows of one comparison, ours first."""
    torch.manual_seed(options.seed)
    rows = ROWS[comparison](folder, options, device)
    samples: dict[str, list[float]] = {row.name: [] for row in rows}
    for i in range(options.rounds):
        # Back and forth, so that what follows the heaviest row is not always the same one.
        for row in rows if i % 2 == 0 else reversed(rows):
            samples[row.name].append(row.sample())
    ours = samples[rows[0].name]
    done = []
    for row in rows:
        low, median, high = quartiles(samples[row.name])
        done.append(
            {
                "comparison": comparison,
                "name": row.name,
                "precision": getattr(row.sample, "precision", row.precision),
                "setting": row.setting,
                "images_per_second": median,
                "iqr": high - low,
                "ours_to_this": paired_ratio(ours, samples[row.name]),
                "samples": samples[row.name],
            }
        )
    return done


def reached(rows: Sequence[dict[str, Any]], large: bool) -> list[dict[str, Any]]:
    """The goals of the comparisons that ran, and what became of them."""
    ratios = {(row["comparison"], row["name"]): row["ours_to_this"] for row in rows}
    return [
        {
            "comparison": comparison,
            "row": row,
            "against": other,
            "at_least": least,
            "ratio": ratios[comparison, other],
            "reached": ratios[comparison, other] >= least,
        }
        for comparison, row, other, least in (LARGE_GOALS if large else GOALS)
        if (comparison, other) in ratios
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, rounds=7)
    parser.add_argument("--data", type=Path, help="folder of small images: DIR/train/CLASS/*.jpg")
    parser.add_argument("--large", action="store_true", help="images of 500x375 pixels, a smaller network")
    images_help = "files of the folder that is made instead (2,560; as many as are needed with --large)"
    parser.add_argument("--images", type=int, help=images_help)
    parser.add_argument("--batch-size", type=int, help="(128; 32 with --large)")
    steps_help = "timed steps a sample (4 on the CPU, 50 on CUDA; 12 with --large)"
    parser.add_argument("--steps", type=int, help=steps_help)
    # At least as many as workers read ahead while others are measured.
    parser.add_argument("--warm-up", type=int, help="untimed steps before every sample (2; 5 with --large)")
    parser.add_argument("--only", default=",".join(COMPARISONS), help="comparisons, such as equal,data")
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    if not set(chosen) <= set(COMPARISONS):
        parser.error(f"--only takes {', '.join(COMPARISONS)}, with commas between; got {options.only}")
    if options.large and options.only != parser.get_default("only"):
        parser.error("--large has one comparison, defaults: leave out --only")
    chosen = ["defaults"] if options.large else chosen
    options.model = LARGE_MODEL if options.large else MODEL
    steps = 12 if options.large else 50 if options.device == "cuda" else 4
    usual = {"batch_size": 32, "warm_up": 5} if options.large else {"batch_size": 128, "warm_up": 2}
    for name, value in {**usual, "steps": steps}.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.quick:
        options.rounds, options.steps, options.warm_up, options.batch_size = 2, 1, 1, 4
    if options.steps < 1 or options.warm_up < 1:
        parser.error("--steps and --warm-up must be at least 1")
    needed = (options.steps + options.warm_up) * options.batch_size
    if options.images is None:
        options.images = max(8 * CLASSES if options.quick or options.large else 2560, needed)
    device = prepare(options)

    with TemporaryDirectory() as made:
        if options.data is None:
            write_folder(Path(made), options.images, options.seed, options.large)
        folder = open_folder(Path(made) if options.data is None else options.data, options.large)
        count = len(folder.images.train)
        if math.ceil(count / options.batch_size) < options.steps + options.warm_up:
            raise SystemExit(
                f"--steps {options.steps} and --warm-up {options.warm_up} must fit into an epoch, which "
                f"has {math.ceil(count / options.batch_size)} steps of {options.batch_size} images here"
            )
        rows = []
        for comparison in (name for name in COMPARISONS if name in chosen):
            rows += measure(comparison, folder, options, device)
            print(f"{comparison}: {options.model}, batches of {options.batch_size}, {device}")
            own = [row for row in rows if row["comparison"] == comparison]
            print_table(own, ["name", "images_per_second", "iqr", "ours_to_this", "precision", "setting"])
        classes, size = len(folder.images.classes), folder.images.image_size
    goals = reached(rows, options.large)
    for goal in goals:
        verdict = "reached" if goal["reached"] else "not reached"
        print(
            f"{goal['row']} at least {goal['at_least']} x {goal['against']}: {goal['ratio']:.2f}, {verdict}"
        )
    if options.out is not None:
        record = {
            "benchmark": "training",
            **environment(gpu=options.device == "cuda"),
            "settings": {
                "model": f"timm {options.model}{'' if options.large else ', 3x3 stem, no max pooling'}",
                "data": f"made: {'500x375' if options.large else 'smooth'} random JPEG files"
                if options.data is None
                else str(options.data),
                "images": count,
                "image_size": size,
                "num_classes": classes,
                "batch_size": options.batch_size,
                "workers": WORKERS,
                "device": options.device,
                "steps": options.steps,
                "warm_up": options.warm_up,
                "quick": options.quick,
            },
            "seed": options.seed,
            "n": options.rounds,
            "rows": rows,
            "goals": goals,
        }
        write_json(options.out, record)
        print(f"written: {options.out}")


if __name__ == "__main__":
    main()
