"""Calls of mixers with odd and hostile arguments: a right result, or a ValueError that names the argument.

Right is what a twin in loops makes of the same draw. A failure names the number of its call:
``CAMPAIGN_SEED=<number> CAMPAIGN_TRIES=1`` repeats it alone.
"""

import math
import re

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from campaign.decisions import Decisions
from recursivemix import MIXERS, RegionModel, create_mixer
from recursivemix.mixing import DenseRecursiveMix, DenseTarget

K = 4
NAN, INF = math.nan, math.inf
ODD = (None, True, -1, 0, 0.0, 0.3, 1, 1.5, 2, NAN, INF, -INF, "x", "", [], (1,), {}, b"1", 10**30)
"""Values of settings."""
WORDS = re.compile(
    r"\b(images|targets|masks|indices|draw|logits|boxes|inplace|num_classes|class indices|prob|loss|"
    r"label_smoothing|spatial_dims|alpha|omega|max_area|max_scale|min_scale|interpolation|partner|patch|"
    r"noise|label map|weight|region|decay|rampup|temperature|momentum|layers?|these options|min_side|"
    r"min_visible|size|min_area|max_blocks|epsilon|iterations|length|value|sigma)\b"
)
"""A refusal has one of them: the arguments and settings."""


def network(kind):
    """A classifier of three-channel images of any size."""
    if kind == "transmix":
        sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 8, "depth": 1, "num_heads": 2}
        return VisionTransformer(num_classes=K, dynamic_img_size=True, dynamic_img_pad=True, **sizes)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, K),
    )


# -- arguments -------------------------------------------------------------------------------------


def odd_images(images, choice):
    """Another dtype, layout, shape, device or type."""
    action = choice.below(16)
    if action < 7:
        kinds = (torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.float8_e4m3fn,
                 torch.int64, torch.complex64, torch.bool, torch.float8_e5m2)  # fmt: skip
        return images.to(choice.of(kinds))
    return (
        lambda: images.requires_grad_(),
        lambda: images[:1].expand(len(images), -1, -1, -1),
        lambda: images[:, :1].expand(-1, 3, -1, -1),
        lambda: images.contiguous(memory_format=torch.channels_last),
        lambda: images.mT,
        lambda: images.to("meta"),
        lambda: choice.of(
            (images[0], images[:0], images[..., :0], images.tolist(), None, images.to_sparse())
        ),
        lambda: images[..., ::2],
        lambda: torch.where(torch.rand(images.shape, generator=choice.generator) < 0.1, NAN, images),
    )[action - 7]()


def odd_targets(targets, choice):
    """Soft, negative, missing, non-finite, of another dtype, shape or type."""
    soft = torch.rand(len(targets), K, generator=choice.generator)
    wrong = soft.clone()
    wrong[0, choice.below(K)] = choice.of((-0.5, NAN, INF, -INF, -1e-30))
    return choice.of(
        (soft, soft / soft.sum(1, keepdim=True), wrong, wrong, wrong.half(), soft.double(), soft.half(),
         soft > 0.5, (soft > 0.5).byte(), targets.byte(), targets.float(), targets + K - 1, targets - 1,
         targets[:-1], targets[None], targets.tolist(), None, soft.to(torch.float8_e4m3fn),
         soft.to_sparse(), soft.to(torch.complex64), -(soft > 0.5).long(), targets.to("meta"),
         soft[:, :-1], targets.int())
    )  # fmt: skip


def odd_indices(indices, choice):
    return choice.of((indices.tolist(), indices.int(), indices[:-1], indices.float(), None, "all", 3,
                      indices.flip(0), -1 - indices))  # fmt: skip


def options_of(name, choice):
    """Settings, now and then odd ones."""
    options = {"seed": choice.below(1000)}
    for key, values in {
        "per_sample": (True, False), "inplace": (True, False, False), "prob": (0.0, 0.5, 1.0, 1.0, 1.0),
        "loss": ("ce", "ce", "bce"), "label_smoothing": (0.0, 0.1),
    }.items():  # fmt: skip
        if choice.chance(0.4):
            options[key] = choice.of(values)
    if name == "recursivemix" and choice.chance(0.6):
        options["omega"] = choice.of((0, 0.5))
        options["patch"] = choice.of(("resize", "cut"))
    if choice.chance(0.15):
        keys = ("prob", "label_smoothing", "loss", "spatial_dims", "alpha", "max_area", "omega", "noise",
                "interpolation", "max_scale", "nonsense", "weight")  # fmt: skip
        options[choice.of(keys)] = choice.of(ODD)
    return options


# -- what is right -----------------------------------------------------------------------------------


def soft_rows(targets):
    """Labels as rows of Python numbers."""
    if targets.dim() == 2:
        return targets.to(torch.float32).tolist()
    return [[1.0 if k == label else 0.0 for k in range(K)] for label in targets.tolist()]


def shown(place, source, length):
    """The source pixel at a place of a shrunken image; float32, as ``F.interpolate`` counts."""
    scale = torch.tensor(source, dtype=torch.float32) / length
    return int(place * scale)


def twin(name, images, rows, draw, past, cut):
    """Mixed pixels and labels in loops; None where this twin does not know the method."""
    if name not in ("recursivemix", "cutmix", "mixup") or images.dim() != 4:
        return None
    pixels = [[[line[:] for line in channel] for channel in image] for image in images.tolist()]
    source, labels, fused = images.tolist(), rows, [row[:] for row in rows]
    if name == "mixup":
        if draw.lam is None:
            return pixels, fused
        for i, j in enumerate(draw.partners.tolist()):
            lam = draw.lam.tolist()[i if len(draw.lam) > 1 else 0]
            fused[i] = [lam * a + (1 - lam) * b for a, b in zip(rows[i], rows[j], strict=True)]
            for c, channel in enumerate(pixels[i]):
                for y, line in enumerate(channel):
                    line[:] = [lam * a + (1 - lam) * b for a, b in zip(line, source[j][c][y], strict=True)]
        return pixels, fused
    if draw.boxes is None or (name == "recursivemix" and past is None):
        return pixels, fused
    partners = range(len(rows)) if draw.partners is None else draw.partners.tolist()
    if name == "recursivemix":
        source, labels, floating = past
        sizes = [torch.tensor(values).shape[-2:] for values in (source, pixels)]
        if floating != images.is_floating_point() or (cut and sizes[0] != sizes[1]):
            return pixels, fused  # this history does not fit
    height, width = images.shape[-2:]
    for i, j in enumerate(partners):
        x1, y1, x2, y2 = draw.boxes.tolist()[i if len(draw.boxes) > 1 else 0]
        if x2 <= x1 or y2 <= y1 or j >= len(source):
            continue
        patch = {}
        for c in range(len(pixels[i])):
            h, w = len(source[j][c]), len(source[j][c][0])
            for y in range(y1, y2):
                for x in range(x1, x2):
                    from_y, from_x = shown(y - y1, h, y2 - y1), shown(x - x1, w, x2 - x1)
                    place = (y, x) if cut or name == "cutmix" else (from_y, from_x)
                    patch[c, y, x] = source[j][c][place[0]][place[1]]
        if name == "recursivemix" and not all(math.isfinite(v) for v in patch.values()):
            continue
        for (c, y, x), value in patch.items():
            pixels[i][c][y][x] = value
        lam = 1 - (x2 - x1) * (y2 - y1) / (height * width)
        fused[i] = [lam * a + (1 - lam) * b for a, b in zip(rows[i], labels[j], strict=True)]
    return pixels, fused


def check_batch(name, mixer, batch, images, rows, past):
    """What holds for every mixed batch, and what the twin knows."""
    assert batch.images.shape == images.shape
    assert batch.images.dtype == images.dtype
    assert batch.targets.shape == (len(images), K)
    assert batch.targets.dtype == batch.lam.dtype == torch.float32
    if images.is_meta:
        return
    assert ((batch.lam >= 0) & (batch.lam <= 1)).all()
    assert batch.targets.isfinite().all()
    assert (batch.targets >= 0).all()
    assert batch.targets.max() <= max(max(row) for row in rows + (past[1] if past else [])) + 1e-5
    expected = twin(name, images, rows, batch.draw, past, getattr(mixer, "patch", "") == "cut")
    if expected is not None:
        pixels, fused = expected
        exact = name != "mixup"
        close = (
            {"rtol": 0, "atol": 0}
            if exact
            else {"rtol": 1e-2, "atol": 1.0 if images.dtype == torch.uint8 else 2e-2}
        )
        made = batch.images.detach().double()
        torch.testing.assert_close(
            made, torch.tensor(pixels).to(images.dtype).double(), equal_nan=True, **close
        )
        torch.testing.assert_close(batch.targets, torch.tensor(fused), atol=2e-3, rtol=1e-5)


def refused(error):
    """A refusal names an argument or a setting."""
    if not WORDS.search(str(error)):
        raise AssertionError(f"names no argument: {error}") from error
    return "refused"


def one_call(number):
    """Build a mixer and make three steps; returns "held" or "refused"."""
    choice = Decisions(number)
    name = choice.of(list(MIXERS))
    torch.manual_seed(number)
    model = network(name) if MIXERS[name].needs_model else None
    classes = choice.of((K,) * 30 + (0, -1, 2.5, "4", None, True))
    try:
        mixer = create_mixer(name, classes, model, **options_of(name, choice))
        if mixer.num_classes != K or mixer.spatial_dims != (-2, -1):
            return "held"
        past = None
        for _ in range(3):
            count, size = 1 + choice.below(4), (8, 8) if name == "transmix" else (5 + choice.below(5), 6)
            images = torch.rand(count, 3, *size, generator=choice.generator)
            targets = torch.arange(count)
            indices = torch.arange(count)
            options = {}
            if choice.chance(0.12):
                images = odd_images(images, choice)
            if choice.chance(0.12):
                targets = odd_targets(targets, choice)
            if choice.chance(0.06):
                indices = odd_indices(indices, choice)
            if choice.chance(0.06):
                options["draw"] = choice.of(
                    (mixer.draw(count, size), mixer.draw(count + 1, size), 3, [], ())
                )
            before = images.detach().clone() if isinstance(images, torch.Tensor) else images
            batch = mixer(images, targets, indices=indices, **options)
            rows = [] if batch.images.is_meta else soft_rows(targets)
            if name != "dlb":
                check_batch(name, mixer, batch, before, rows, past)
            if not mixer.inplace and not before.is_meta:
                same = (
                    before.isnan()
                    if before.is_floating_point()
                    else torch.zeros_like(before, dtype=torch.bool)
                )
                assert ((images.detach() == before) | same).all()
            if name in ("alignmix", "manifoldmix", "transmix"):
                return "held"  # the rest happens inside of the user's own call of the network
            logits = torch.rand(len(batch.targets), K, generator=choice.generator).to(batch.images.device)
            if choice.chance(0.05):
                logits = choice.of((None, logits[:, :-1], logits.long(), logits.tolist(), logits.half()))
            regions = logits if mixer.trains_regions else None
            loss = mixer.loss(logits, batch, regions)
            finite = images.is_meta or not images.is_floating_point() or images.isfinite().all()
            assert loss.is_meta or loss.isfinite() or not finite
            mixer.remember(batch, logits)
            if batch.images.is_meta:
                return "held"
            pixels = batch.images.detach()
            past = pixels.tolist(), batch.targets.tolist(), pixels.is_floating_point()
    except ValueError as error:
        return refused(error)
    return "held"


def one_dense_call(number):
    """The same for `DenseRecursiveMix`, with objects or label maps."""
    choice = Decisions(number)
    settings = {"seed": number}
    if choice.chance(0.15):
        settings[choice.of(("max_area", "prob", "min_side", "min_visible", "interpolation"))] = choice.of(
            ODD
        )
    try:
        mixer = DenseRecursiveMix(**settings)
        for _ in range(3):
            sizes = [(8 + choice.below(4), 9) for _ in range(1 + choice.below(3))]
            images = [torch.rand(3, *size, generator=choice.generator) for size in sizes]
            maps = choice.chance(0.4)
            boxes = torch.tensor([[1.0, 1.0, 6.0, 7.0]])
            targets = [
                torch.ones(size, dtype=torch.long) if maps else DenseTarget(boxes, torch.tensor([1]))
                for size in sizes
            ]
            if choice.chance(0.12):
                i = choice.below(len(images))
                images[i] = choice.of((images[i].to(torch.float8_e5m2), images[i].half(), images[i][0],
                                       None, images[i].tolist(), images[i][:, :1], images[i].to_sparse(),
                                       images[i].requires_grad_(), images[i] * NAN))  # fmt: skip
            if choice.chance(0.12) and not maps:
                i = choice.below(len(images))
                odd = (boxes.tolist(), boxes[0], boxes.double(), boxes * NAN, boxes.flip(1), boxes - 50,
                       None, boxes[:0])  # fmt: skip
                targets[i] = DenseTarget(
                    choice.of(odd), choice.of((torch.tensor([1]), [1], torch.tensor(1)))
                )
            if choice.chance(0.1):
                pairs = ((images[0], targets), (images, None), (None, targets), ([], []),
                         (images, targets[:-1]), (torch.rand(()), targets))  # fmt: skip
                images, targets = choice.of(pairs)
            batch = mixer(images, targets)
            for i, (image, mixed) in enumerate(zip(images, batch.images, strict=True)):
                x1, y1, x2, y2 = batch.boxes[i].tolist()
                inside = torch.zeros(image.shape[-2:], dtype=torch.bool)
                inside[y1:y2, x1:x2] = True
                outside = torch.nan_to_num(image)[:, ~inside]
                assert torch.equal(torch.nan_to_num(mixed)[:, ~inside], outside)
                share = 1 - inside.float().mean()
                assert float(batch.lam[i]) == 1 or abs(float(batch.lam[i] - share)) < 1e-6
            mixer.remember(batch)
    except ValueError as error:
        return refused(error)
    return "held"


def one_region_call(number):
    """The same for `RegionModel`, against its backbone."""
    choice = Decisions(number)
    torch.manual_seed(number)
    model = RegionModel(network(""), image_size=(8, 8)).eval()
    images = torch.rand(2, 3, 8, 8, generator=choice.generator)
    boxes = torch.tensor([[0, 0, 8, 8], [1, 2, 5, 6]])
    if choice.chance(0.6):
        images = odd_images(images, choice)
    if choice.chance(0.4):
        boxes = choice.of((boxes.float(), boxes.tolist(), boxes[:1], boxes[:, :3], boxes.to("meta"),
                           boxes.to(torch.complex64), "all", boxes * 0, None))  # fmt: skip
    try:
        result = model(images, boxes)
        logits = result if boxes is None else result[0]
        assert torch.equal(logits.isnan(), model.backbone(images).isnan()) or logits.is_meta
    except ValueError as error:
        return refused(error)
    return "held"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", [one_call, one_dense_call, one_region_call])
def test_odd_calls(call, tries, seed, recorded):
    # Milliseconds each, so a campaign of 1,000 tries makes 20,000 calls.
    factor = {one_call: 16}.get(call, 2) if tries >= 1000 else 1
    seen = {"held": 0, "refused": 0}
    for number in range(seed, seed + factor * tries):
        try:
            seen[call(number)] += 1
        except BaseException as error:
            error.add_note(f"call {number}")
            raise
    if tries >= 50:
        assert min(seen.values()) > 0, seen
    kind = {one_call: "mixers", one_dense_call: "dense mixing", one_region_call: "RegionModel"}[call]
    recorded(f"odd calls of {kind}", sum(seen.values()), sum(seen.values()))
