"""Crops against torchvision's transforms of whole images, and decoding at a part of the size."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2.functional import gaussian_blur, pil_to_tensor

from recursivemix.data import decode
from recursivemix.data.augment import Augmentation
from recursivemix.data.batches import AugmentedImages
from recursivemix.data.crop import Crop, center_crop, evaluation_crop, random_resized_crop
from recursivemix.data.decode import Decoding, UnreadableImageError, as_rgb, decode_crop
from recursivemix.data.open import open_data
from samples import torchvision_evaluation

SIZES = [(375, 500), (333, 511), (1030, 701), (100, 60), (17, 40)]


def photograph(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth colours, a few edges as sharp as a lens makes them, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 40 + 2, width // 40 + 2, generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    for _ in range(6):
        y, x = (int(torch.randint(side, (1,), generator=generator)) for side in (height, width))
        image[:, y : y + height // 5, x : x + width // 7] += 0.4 * torch.rand(3, 1, 1, generator=generator)
    image = gaussian_blur(image, [5, 5], [1.0, 1.0])
    image += 0.01 * torch.randn(image.shape, generator=generator)
    return Image.fromarray((255 * image.clamp(0, 1)).byte().permute(1, 2, 0).numpy())


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(content: bytes, choose: object, *, exact: bool = False) -> torch.Tensor:
    return decode_crop(content, "name", "fix it", choose, Decoding(exact))


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("preprocessing", [(32,), (96,), (224,), (96, 96, "bicubic"), (48, 112, "nearest")])
def test_evaluation_crops_as_torchvision_does(image_size, preprocessing):
    image = pil_to_tensor(photograph(*image_size))
    crop = evaluation_crop(*preprocessing)(image_size)
    assert torch.equal(crop.apply(image), torchvision_evaluation(*preprocessing)(image))


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_random_crops_are_those_of_torchvision(image_size, interpolation):
    """Below twice the wanted size, bit for bit; above it, edges move to pixels of the reduced image."""
    image, size = pil_to_tensor(photograph(*image_size)), 96
    mode = InterpolationMode(interpolation)
    twin = v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=mode, antialias=True)
    scales = set()
    for seed in range(30):
        torch.manual_seed(seed)
        expected = twin.make_params([image])
        torch.manual_seed(seed)
        crop = random_resized_crop(size, (0.08, 1.0), (3 / 4, 4 / 3), interpolation, image_size)
        scales.add(crop.scale)
        if crop.scale == 1:
            torch.manual_seed(seed)
            assert torch.equal(crop.apply(image), twin(image))
        for name in ("top", "left", "height", "width"):
            assert 0 <= expected[name] - getattr(crop, name) < crop.scale
            assert getattr(crop, name) % crop.scale == 0
    assert scales == {1} or min(image_size) > 2 * size


@pytest.mark.parametrize(
    ("box", "scale"),
    [((191, 300), 1), ((192, 192), 2), ((383, 500), 2), ((384, 384), 4), ((768, 768), 8), ((5000, 100), 1)],
)
def test_an_image_is_never_reduced_below_the_wanted_pixels(box, scale):
    assert Crop(0, 0, *box, (96, 96), 96).scale == scale


def test_a_jpeg_is_decoded_as_pillow_does():
    content = encoded(photograph(120, 161), "JPEG", quality=90)
    whole = as_rgb(Image.open(io.BytesIO(content)))
    assert torch.equal(
        read(content, lambda size: Crop(0, 0, 120, 161, size, 161))[:, 20:140], whole[:, :120]
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("remainder", [0, 5])
def test_reduced_decoding_stays_near_full_decoding(kind, scale, remainder):
    """The worst case: a crop with hardly more pixels than wanted."""
    size = 64
    side = size * scale + remainder
    content = encoded(photograph(side, side + 77, seed=scale), kind)
    crops = []

    def choose(image_size: tuple[int, int]) -> Crop:
        torch.manual_seed(len(content))
        crops.append(
            center_crop(size, size, "bilinear", image_size)
            if remainder
            else random_resized_crop(size, (0.9, 1.0), (3 / 4, 4 / 3), "bilinear", image_size)
        )
        return crops[-1]

    reduced, full = (read(content, choose, exact=exact).float() for exact in (False, True))
    assert crops[0] == crops[1]
    assert crops[0].scale > 1 or not remainder
    difference = (reduced - full).abs()
    assert difference.mean() < 2
    assert difference.flatten().quantile(0.99) < 16


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "LA", "1", "I;16"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_every_mode_is_reduced(mode, kind):
    image = photograph(400, 520)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    try:
        content = encoded(image, kind)
    except OSError:
        pytest.skip(f"{kind} does not store {mode}")
    reduced, full = (read(content, evaluation_crop(48), exact=exact).float() for exact in (False, True))
    assert (reduced - full).abs().mean() < 2


def test_a_reduced_jpeg_is_not_decoded_in_full(monkeypatch):
    content = encoded(photograph(800, 1000), "JPEG")
    shapes = []
    original = decode.decode_jpeg

    def watched(*arguments: object, **options: object) -> np.ndarray:
        shapes.append(original(*arguments, **options))
        return shapes[-1]

    monkeypatch.setattr(decode, "decode_jpeg", watched)
    read(content, evaluation_crop(64))
    assert shapes[0].shape == (100, 125, 3)
    read(content, evaluation_crop(64), exact=True)
    assert len(shapes) == 1


def test_a_file_that_simplejpeg_refuses_is_left_to_pillow(monkeypatch):
    content = encoded(photograph(300, 300), "JPEG")
    expected = read(content, evaluation_crop(64))
    cut = content[: len(content) // 2]
    with pytest.raises(UnreadableImageError, match=r"cannot read the image name: .*truncated.*; fix it"):
        read(cut, evaluation_crop(64))

    def refuse(*arguments: object, **options: object) -> np.ndarray:
        raise ValueError("no")

    monkeypatch.setattr(decode, "decode_jpeg", refuse)
    assert torch.equal(read(content, evaluation_crop(64)), expected)


def test_an_image_above_the_limit_is_refused_before_decoding(tmp_path):
    for number, name in enumerate(("a", "b", "a", "b")):
        folder = tmp_path / "data" / ("train" if number < 2 else "val") / name
        folder.mkdir(parents=True)
        for i in range(3):
            photograph(20, 20 + i).save(folder / f"{i}.png")
    large = tmp_path / "data" / "train" / "a" / "2.png"
    data = open_data(tmp_path / "data", max_pixels=420, image_size=8)
    with pytest.raises(
        UnreadableImageError, match=r"2\.png: 22x20 pixels are above the limit of 420"
    ) as error:
        data.train[2]
    assert str(large) in str(error.value)
    with pytest.raises(UnreadableImageError, match="above the limit"):
        data.train.crop(2, evaluation_crop(8))
    kept = open_data(tmp_path / "data", max_pixels=420, image_size=8, skip_bad=True)
    assert (len(kept.train), len(kept.evaluation)) == (4, 4)
    assert len(kept.skipped) == 4
    with pytest.raises(ValueError, match=r"--max-pixels must be in 1..178956970"):
        open_data(tmp_path / "data", max_pixels=0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I", "I;16", "F"])
def test_large_images_are_converted_in_bands(mode, monkeypatch):
    """A conversion takes several copies of the pixels."""
    image = photograph(50, 37).convert("I" if mode == "I;16" else mode).convert(mode)
    whole = as_rgb(image)
    monkeypatch.setattr(decode, "BAND", 400)
    assert torch.equal(as_rgb(image), whole)
    monkeypatch.setattr(decode, "BAND", 20)  # less than a row
    assert torch.equal(as_rgb(image), whole)


@pytest.mark.parametrize("image_size", [(1, 2**24), (2**24, 1), (3, 301), (500, 4)])
def test_only_the_center_of_a_strip_is_resized(image_size):
    """All of it would be enlarged to gigabytes."""
    crop = evaluation_crop(16, 20)(image_size)
    height, width = image_size
    assert max(crop.resized) <= 100 * 20
    assert crop.top + crop.height / 2 == pytest.approx(height / 2, abs=1)
    assert crop.left + crop.width / 2 == pytest.approx(width / 2, abs=1)
    image = (torch.arange(width) % 256).to(torch.uint8).repeat(3, height, 1)
    assert crop.apply(image).shape == (3, 16, 16)
    if min(image_size) > 1:  # the same pixels as of the whole
        whole = Crop(
            0, 0, height, width, (20 * height // min(image_size), 20 * width // min(image_size)), 16
        )
        assert (crop.apply(image).int() - whole.apply(image).int()).abs().float().mean() < 6


def test_the_limit_of_webp_is_lower(tmp_path):
    """Pillow takes more memory to decode it."""
    for kind, limit, words in (("WEBP", 200, "half of --max-pixels"), ("PNG", 100, "--max-pixels")):
        content = encoded(Image.new("RGB", (10, 10)), kind)
        with decode.open_image(content, "a", "fix", limit) as image:
            assert as_rgb(image).shape == (3, 10, 10)
        with (
            pytest.raises(UnreadableImageError, match=f"the limit of 99 pixels, {words} of recursivemix"),
            decode.open_image(content, "a", "fix", limit - 1),
        ):
            pass


def test_exact_decoding_is_a_setting_of_the_data(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            photograph(300, 300, seed=i).save(tmp_path / name / f"{i}.jpg")
    fast, exact = (
        open_data(tmp_path, val_split=0.5, exact_decoding=exact, image_size=32) for exact in (False, True)
    )
    settings = Augmentation(size=32, mean=fast.mean, std=fast.std, crop="none")
    found, expected = (
        AugmentedImages(data.evaluation, settings, training=False)[0, 0] for data in (fast, exact)
    )
    names = [data.evaluation.name(0) for data in (fast, exact)]
    assert names[0] == names[1]
    index = int(names[0].endswith("1.jpg"))
    assert not torch.equal(found, expected)
    whole = as_rgb(Image.open(tmp_path / "a" / f"{index}.jpg"))
    assert torch.equal(expected, torchvision_evaluation(32)(whole).permute(1, 2, 0))
