"""Augmentation before the mix: torchvision's, reproducible by (seed, epoch, step, rank, image)."""

from dataclasses import replace

import pytest
import torch
from test_batches import CPU, MEAN, STD, Loose, coded, equal
from torchvision.transforms import InterpolationMode, v2

from recursivemix.cli import main
from recursivemix.data.augment import augmentation_of, training_crop, training_transform
from recursivemix.data.batches import TrainingBatches
from recursivemix.data.images import ImageData
from recursivemix.data.order import TrainingOrder
from recursivemix.data.settings import AugmentationSettings
from recursivemix.explain.preview import preview

POLICIES = ("autoaugment", "randaugment", "trivialaugment", "augmix", "3-augment")
EACH = {
    **{policy: {"auto_augment": policy} for policy in POLICIES},
    "erasing": {"random_erasing": 0.9},
    "grayscale": {"grayscale": 0.7},
    "blur": {"blur": 0.7},
    "vertical flip": {"vertical_flip": True},
    "scale and ratio": {"crop": "resized", "crop_scale": (0.3, 0.5), "crop_ratio": (1.0, 2.0)},
    "colours": {"color_jitter": 0.4},
    "together": {"auto_augment": "randaugment", "random_erasing": 0.5, "blur": 0.3, "lighting": 0.1},
}


def smooth(count, size=(40, 36)):
    """Images that every operation changes: colour gradients with an edge."""
    images = coded(count, size)
    ramp = torch.linspace(0, 200, size[1]).byte()
    images.images = (images.images // 8 + ramp).roll(7, -1)
    return images


def data(count=9, size=32):
    images = Loose(smooth(count))
    return ImageData(images, images, ("a",), size, MEAN, STD, flip=True, split="val")


def batches(options, *, epoch=1, workers=0, first=0, seed=3, rank=0):
    images = data()
    order = TrainingOrder(len(images.train), 4, seed, 1, 2, rank)
    augmentation = augmentation_of(images, AugmentationSettings(**options))
    loader = TrainingBatches(
        images.train, order, augmentation, lambda: epoch, device=CPU, hold=False, workers=workers
    )
    loader.first = first
    return list(loader)


@pytest.mark.parametrize("options", EACH.values(), ids=EACH)
@pytest.mark.slow
def test_an_image_depends_on_its_place_alone(options):
    """The same for any number of workers, and from the middle of an epoch as from its start."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    expected = batches(options)
    assert equal(expected, batches(options, workers=2))
    assert equal(expected[1:], batches(options, first=1))
    assert torch.equal(before, torch.get_rng_state())
    for other in ({"epoch": 2}, {"seed": 4}, {"rank": 1}):
        assert not equal(expected, batches(options, **other))
    assert not equal(expected, batches({}))
    for batch in expected:
        assert batch.images.shape[1:] == (3, 32, 32)
        assert batch.images.isfinite().all()


def reference(options):
    """The step of torchvision that an option adds."""
    named = {"interpolation": InterpolationMode.BILINEAR, "fill": [128, 102, 76]}
    blur = v2.GaussianBlur(13, (0.1, 2.0))
    return {
        "autoaugment": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, **named),
        "randaugment": lambda: v2.RandAugment(3, 14, **named),
        "trivialaugment": lambda: v2.TrivialAugmentWide(**named),
        "augmix": lambda: v2.AugMix(**named),
        "3-augment": lambda: v2.RandomChoice([v2.Grayscale(3), v2.RandomSolarize(128, p=1.0), blur]),
        "grayscale": lambda: v2.RandomGrayscale(0.7),
        "blur": lambda: v2.RandomApply([blur], 0.7),
        "vertical flip": v2.RandomVerticalFlip,
    }[options]()


def whole_transform(augmentation):
    """The crop of training and what follows it, for one image."""
    crop, rest = training_crop(augmentation), training_transform(augmentation)
    return lambda image: rest(crop(tuple(image.shape[-2:])).apply(image))


@pytest.mark.parametrize("name", [*POLICIES, "grayscale", "blur", "vertical flip"])
def test_each_is_that_of_torchvision(name):
    options = EACH[name] | {"crop": "none", "flip": False}
    if name == "randaugment":
        options |= {"magnitude": 14, "operations": 3}
    ours = whole_transform(augmentation_of(data(), AugmentationSettings(**options)))
    theirs = v2.Compose([v2.Resize(32, antialias=True), v2.CenterCrop(32), reference(name)])
    image, changed = smooth(1).images[0], 0
    for seed in range(20):
        results = []
        for transform in (ours, theirs):
            torch.manual_seed(seed)
            results.append(transform(image))
        assert torch.equal(*results), seed
        changed += not torch.equal(results[0], v2.CenterCrop(32)(v2.Resize(32, antialias=True)(image)))
    assert changed >= 5


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("interpolation", ["nearest", "bicubic"])
def test_policies_work_with_every_interpolation(policy, interpolation):
    images = replace(data(), interpolation=interpolation)
    transform = training_transform(augmentation_of(images, AugmentationSettings(auto_augment=policy)))
    torch.manual_seed(0)
    for image in smooth(30, (32, 32)).images:
        assert transform(image).shape == (3, 32, 32)


def test_erased_rectangles_hold_noise_of_the_data():
    """In normalized units the noise has mean 0 and deviation 1, up to the clamping to bytes."""
    options = AugmentationSettings(random_erasing=1.0, crop="none", flip=False)
    transform = whole_transform(augmentation_of(data(size=64), options))
    image = torch.full((3, 64, 64), 7, dtype=torch.uint8)
    torch.manual_seed(0)
    values, shares = [], []
    for _ in range(50):
        erased = transform(image)
        assert erased.dtype == torch.uint8
        places = (erased != 7).any(0)
        shares.append(float(places.float().mean()))
        values.append(
            (erased[:, places].float() / 255 - torch.tensor(MEAN)[:, None]) / torch.tensor(STD)[:, None]
        )
    noise = torch.cat(values, 1)
    assert noise.mean(1).abs().max() < 0.15
    assert (noise.std(1) - 1).abs().max() < 0.15
    assert 0.01 < min(shares) < max(shares) < 0.35


def test_scale_and_ratio_bound_the_crop():
    """Colours of a crop tell where it was: columns hold their number, rows theirs."""
    rows = torch.arange(200).byte()[:, None].expand(200, 200)
    image = torch.stack([rows, rows.T, rows])
    options = AugmentationSettings(crop="resized", crop_scale=(0.3, 0.4), crop_ratio=(1.5, 2.0), flip=False)
    transform = whole_transform(augmentation_of(data(size=100), options))
    torch.manual_seed(0)
    for _ in range(30):
        crop = transform(image).float()
        height, width = (float(crop[i].max() - crop[i].min()) + 1.5 for i in (0, 1))
        assert 0.27 < height * width / 200**2 < 0.43
        assert 1.4 < width / height < 2.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop-scale", "[0.5,0.2]"], "--crop-scale must be"),
        (["--crop-ratio", "[0,1]"], "--crop-ratio must be"),
        (["--crop-scale", "[0.5,1]"], "leave it out, or use --crop resized"),
        (["--grayscale", "1.5"], "--grayscale is a share"),
        (["--magnitude", "31"], "--magnitude must be in 0..30"),
        (["--operations", "0"], "--operations must be at least 1"),
        (["--magnitude", "5"], "--magnitude 5 is an option of --auto-augment randaugment"),
        (["--operations", "3", "--auto-augment", "augmix"], "--operations 3 is an option of"),
        (["--cache", "yes", "--blur", "0.5"], "--cache yes needs"),
    ],
)
def test_what_cannot_be(options, message, capsys):
    assert main(["fit", *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_preview_shows_the_augmentation(tmp_path, capsys):
    shown = []
    for name, options in {"plain": {}, "erased": {"random_erasing": 1.0}}.items():
        out = tmp_path / f"{name}.png"
        preview(steps=2, samples=2, out=out, augmentation=AugmentationSettings(**options))
        shown.append(out.read_bytes())
    assert shown[0] != shown[1]
    typed = tmp_path / "typed.png"
    command = ["preview", "--steps", "2", "--samples", "2", "--random-erasing", "1", "--out", str(typed)]
    assert main(command) == 0
    assert typed.read_bytes() == shown[1]
    assert main(["preview", "--task", "detection", "--blur", "0.1", "--out", str(typed)]) == 2
    assert "do not apply to --task detection" in capsys.readouterr().err
