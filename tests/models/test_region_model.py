"""`RegionModel`: one contract for every backbone, then where regions, heads and states may go wrong."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from recursivemix.models.pyramidnet import PyramidNet
from recursivemix.models.region import RegionModel, as_logits
from recursivemix.models.wideresnet import WideResNet

K = 5


@dataclass(frozen=True)
class Case:
    """A backbone and what is expected of it."""

    build: Callable[[], nn.Module]
    feature: str
    channels: int
    layout: str = "NCHW"
    prefix: int = 0
    shared: bool = True
    size: tuple[int, int] = (64, 64)


def of_timm(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=K, **options)


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, num_classes=K)


def of_hugging_face(name: str, **options: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        config = getattr(transformers, f"{name}Config")(num_labels=K, **options)
        return getattr(transformers, f"{name}ForImageClassification")(config)

    return build


def awake(backbone: nn.Module) -> nn.Module:
    """Weights that let an image through: fresh classifiers may be zero, fresh nets fade to nothing."""
    for parameter in backbone.parameters():
        if parameter.dim() >= 2:
            nn.init.kaiming_normal_(parameter)
    return backbone


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CASES = {
    # our own: the map after the last norm and its ReLU
    "own-wideresnet": Case(lambda: WideResNet(10, 1, K), "relu", 64, size=(32, 32)),
    "own-pyramidnet": Case(lambda: PyramidNet(20, 24, K), "relu", 160, size=(32, 32)),
    # timm, convolutional
    "timm-resnet18": Case(of_timm("resnet18"), "layer4", 512),
    "timm-densenet121": Case(of_timm("densenet121"), "features", 1024),
    "timm-efficientnet_b0": Case(of_timm("efficientnet_b0"), "bn2", 1280),
    "timm-mobilenetv3": Case(of_timm("mobilenetv3_small_100"), "blocks", 576),
    "timm-regnety": Case(of_timm("regnety_002"), "final_conv", 368),
    "timm-convnext": Case(of_timm("convnext_atto"), "norm_pre", 320),
    "timm-repvgg": Case(of_timm("repvgg_a0"), "final_conv", 1280),
    "timm-edgenext": Case(of_timm("edgenext_xx_small"), "norm_pre", 168),
    "timm-coatnet": Case(of_timm("coatnet_pico_rw_224", img_size=64), "norm", 512),
    # timm, channels last
    "timm-swin": Case(of_timm("swin_s3_tiny_224", img_size=64, window_size=2), "norm", 768, "NHWC"),
    # timm, tokens
    "timm-vit": Case(of_timm("vit_tiny_patch16_224", img_size=64), "norm", 192, "tokens", 1),
    "timm-vit-average": Case(
        of_timm("vit_tiny_patch16_224", img_size=64, global_pool="avg"), "norm", 192, "tokens", 1
    ),
    "timm-vit-registers": Case(
        of_timm("vit_small_patch14_reg4_dinov2", img_size=56, depth=2),
        "norm",
        384,
        "tokens",
        5,
        size=(56, 56),
    ),
    "timm-deit-distilled": Case(
        of_timm("deit_tiny_distilled_patch16_224", img_size=64), "norm", 192, "tokens", 2, shared=False
    ),
    # Its attention pooling makes maps of heads and tokens of twice the width after the norm.
    "timm-siglip": Case(
        of_timm("vit_base_patch16_siglip_224", img_size=64, depth=1), "norm", 768, "tokens", shared=False
    ),
    "timm-mixer": Case(of_timm("mixer_s32_224", img_size=64), "norm", 512, "tokens"),
    # torchvision
    "torchvision-resnet18": Case(of_torchvision("resnet18"), "layer4", 512),
    "torchvision-convnext": Case(of_torchvision("convnext_tiny"), "features", 768),
    "torchvision-swin": Case(of_torchvision("swin_t"), "permute", 768),
    "torchvision-mobilenetv3": Case(of_torchvision("mobilenet_v3_small"), "features", 576),
    "torchvision-densenet121": Case(of_torchvision("densenet121"), "features", 1024),
    "torchvision-vit": Case(
        lambda: torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=K),
        "encoder",
        32,
        "tokens",
        1,
        size=(32, 32),
    ),
    # Hugging Face
    "huggingface-vit": Case(
        of_hugging_face("ViT", **SMALL, image_size=32, patch_size=8), "vit", 32, "tokens", 1, size=(32, 32)
    ),
    "huggingface-deit": Case(
        of_hugging_face("DeiT", **SMALL, image_size=32, patch_size=8),
        "deit",
        32,
        "tokens",
        2,
        size=(32, 32),
    ),
    "huggingface-dinov2": Case(
        of_hugging_face("Dinov2", **SMALL, image_size=56, patch_size=14),
        "dinov2",
        32,
        "tokens",
        1,
        shared=False,
        size=(56, 56),
    ),
    "huggingface-resnet": Case(
        of_hugging_face("ResNet", embedding_size=8, hidden_sizes=[8, 8, 16, 32], depths=[1, 1, 1, 1]),
        "resnet",
        32,
    ),
    # The norm after its pooling hides inside the module that returns the map.
    "huggingface-convnext": Case(
        of_hugging_face("ConvNext", hidden_sizes=[8, 8, 16, 32], depths=[1, 1, 1, 1]),
        "convnext",
        32,
        shared=False,
    ),
    "huggingface-swin": Case(
        of_hugging_face(
            "Swin", image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4
        ),
        "swin",
        16,
        "tokens",
        size=(32, 32),
    ),
}


class TinyNet(nn.Module):
    """The smallest backbone: two convolutions, a norm and a linear layer."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 7, 3, stride=2, padding=1)
        self.head = nn.Linear(7, K)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.norm(self.stem(images)).relu()).mean((2, 3)))


@pytest.fixture(autouse=True)
def own_weights() -> Iterator[None]:
    """Backbones draw their weights from torch's global stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def coded_images(batch: int, size: tuple[int, int], channels: int = 3) -> Tensor:
    """(batch, channels, H, W), every pixel another number in [-1, 1]."""
    count = batch * channels * size[0] * size[1]
    return torch.arange(count, dtype=torch.float64).cos().float().view(batch, channels, *size)


def boxes_in(size: tuple[int, int]) -> Tensor:
    """(2, 4): a box off the centre, and the whole image."""
    height, width = size
    return torch.tensor([(width // 4, 0, width, height // 2), (0, 0, width, height)])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
class TestEveryBackbone:
    def test_finds_the_map_and_leaves_the_backbone_as_it_was(self, case):
        """Its keys and buffers, the mode of each submodule, and torch's random stream."""
        backbone = case.build()
        for i, module in enumerate(backbone.modules()):
            module.training = i % 3 > 0
        modes = [m.training for m in backbone.modules()]
        state = copy.deepcopy(backbone.state_dict())
        stream = torch.get_rng_state()

        model = RegionModel(backbone, image_size=case.size)

        found = model.feature_map
        assert (found.name, found.layout, found.channels) == (case.feature, case.layout, case.channels)
        assert found.prefix_tokens == case.prefix
        assert [m.training for m in backbone.modules()] == modes
        assert model.backbone.state_dict().keys() == state.keys()
        for key, value in model.backbone.state_dict().items():
            assert torch.equal(value, state[key]), key
        # The region head draws its weights as any layer does; the search for the map draws nothing.
        after = torch.get_rng_state()
        torch.set_rng_state(stream)
        nn.Linear(case.channels, K)
        assert torch.equal(torch.get_rng_state(), after)

    def test_logits_are_the_backbones_and_every_region_parameter_learns(self, case):
        model = RegionModel(awake(case.build()), image_size=case.size).eval()
        images, boxes = coded_images(2, case.size), boxes_in(case.size)
        expected = as_logits(model.backbone(images))
        assert expected.shape == (2, K)
        assert torch.equal(model(images), expected)
        logits, regions = model(images, boxes)
        assert torch.equal(logits, expected)
        assert regions.shape == (2, K)
        assert regions.isfinite().all()
        assert not torch.allclose(regions[0], model(images, boxes.flip(0))[1][0])  # the box matters

        regions.square().sum().backward()  # of the region alone: it reaches the backbone through the map
        assert all(p.grad is not None and p.grad.any() for p in model.region_head.parameters())
        assert any(p.grad is not None and p.grad.any() for p in model.backbone.parameters())

    def test_a_shared_head_classifies_the_whole_image_as_the_backbone_does(self, case):
        """RoIAlign of the whole image is the mean of the map, which the shared head must classify so."""
        backbone = awake(case.build()).eval()
        keys = list(backbone.state_dict())
        if not case.shared:
            with pytest.raises(ValueError, match=r"does more .* Use region_head='separate'"):
                RegionModel(backbone, region_head="shared", image_size=case.size)
            return
        stream = torch.get_rng_state()
        model = RegionModel(backbone, region_head="shared", image_size=case.size).eval()
        assert torch.equal(torch.get_rng_state(), stream)
        assert not list(model.region_head.parameters())
        assert [f"backbone.{key}" for key in keys] == list(model.state_dict())

        images, boxes = coded_images(2, case.size), boxes_in(case.size)
        logits, regions = model(images, boxes)
        assert regions.shape == (2, K)
        if case.prefix and getattr(backbone, "global_pool", "token") == "token":
            return  # a class token is not the mean of the others
        torch.testing.assert_close(regions[1], logits[1], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(regions[0], logits[0], atol=1e-5, rtol=1e-4)


class TestFeature:
    """`feature=`, and what is said where no map is found."""

    @pytest.mark.parametrize("build", [of_timm("resnet18"), of_torchvision("resnet18")])
    def test_is_taken_where_named(self, build):
        model = RegionModel(build(), feature="layer3", image_size=(64, 64)).eval()
        assert (model.feature_map.name, model.feature_map.channels) == ("layer3", 256)
        assert model.region_head.in_features == 256
        assert "layer3" in repr(model)
        seen = []
        model.backbone.layer3.register_forward_hook(lambda module, inputs, output: seen.append(output))
        images = coded_images(2, (64, 64))
        regions = model(images, torch.tensor([[0, 0, 64, 64]] * 2))[1]
        torch.testing.assert_close(regions, model.region_head(seen[0].mean((2, 3))))

    @pytest.mark.parametrize("name", ["layer5", "fc", "global_pool", ""])
    def test_wrong_name_lists_the_candidates(self, name):
        with pytest.raises(
            ValueError, match=r"is no submodule .* candidates are: layer4.*, layer4$"
        ) as error:
            RegionModel(timm.create_model("resnet18", num_classes=K), feature=name, image_size=(64, 64))
        assert repr(name) in str(error.value)

    def test_shared_head_from_an_earlier_map_is_refused(self):
        with pytest.raises(ValueError, match=r"'layer3'.*does more \(layer4"):
            RegionModel(timm.create_model("resnet18"), feature="layer3", region_head="shared")

    def test_shared_head_of_convnext_with_its_norm_outside(self):
        backbone = CASES["huggingface-convnext"].build().eval()
        model = RegionModel(backbone, feature="convnext.encoder", region_head="shared", image_size=(64, 64))
        logits, regions = model(coded_images(2, (64, 64)), torch.tensor([[0, 0, 64, 64]] * 2))
        torch.testing.assert_close(regions, logits, atol=1e-6, rtol=1e-5)

    def test_no_map_at_all(self):
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, K))
        with pytest.raises(ValueError, match=r"no feature map was found in Sequential .*\(8, 8\)"):
            RegionModel(backbone, image_size=(8, 8))

    def test_tokens_that_make_no_grid(self):
        model = RegionModel(CASES["torchvision-vit"].build())
        with pytest.raises(ValueError, match=r"prefix tokens make no grid .* feature="):
            model.feature_map.as_map(torch.zeros(1, 19, 32), (32, 32))

    def test_prefix_tokens_are_told_or_inferred(self):
        build = CASES["huggingface-deit"].build
        assert RegionModel(build()).feature_map.prefix_tokens == 2
        assert RegionModel(build(), prefix_tokens=2).feature_map.prefix_tokens == 2
        assert RegionModel(build(), prefix_tokens=1).feature_map.name != "deit"  # 17 tokens make no grid


class TestRefusals:
    def test_region_head_is_one_of_two(self):
        with pytest.raises(ValueError, match="must be 'separate' or 'shared', got 'both'"):
            RegionModel(TinyNet(), region_head="both")

    @pytest.mark.parametrize("module", [nn.Identity(), nn.Sequential(nn.ReLU(), nn.Flatten())])
    def test_module_without_parameters(self, module):
        with pytest.raises(ValueError, match="has no parameters, so it is no classifier"):
            RegionModel(module)

    def test_module_that_is_no_classifier(self):
        with pytest.raises(ValueError, match=r"must return \(B, K\) logits"):
            RegionModel(nn.Sequential(nn.Conv2d(3, 4, 3)), image_size=(16, 16))

    def test_size_that_the_backbone_does_not_take(self):
        with pytest.raises(ValueError, match=r"name the size it takes with image_size=.*\(60, 60\)"):
            RegionModel(timm.create_model("vit_tiny_patch16_224", depth=1), image_size=(60, 60))

    def test_shared_head_of_a_flattened_map(self):
        """vgg11 flattens 7x7 cells into its first linear layer: no single cell can take that way."""
        backbone = torchvision.models.vgg11(num_classes=K, init_weights=False)
        with pytest.raises(ValueError, match=r"does more .*classifier\.0.* Use region_head='separate'"):
            RegionModel(backbone, region_head="shared", image_size=(32, 32))

    def test_shared_head_of_a_maximum(self):
        """Maximum pooling takes a single cell, but not as the mean of a map would be."""
        backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, K)
        )
        with pytest.raises(ValueError, match=r"'0'.*does more \(1, 2, 3\)"):
            RegionModel(backbone, region_head="shared", image_size=(16, 16))
        backbone[1] = nn.AdaptiveAvgPool2d(1)
        RegionModel(backbone, region_head="shared", image_size=(16, 16))


class TestImages:
    """Other sizes, shapes and channels than the backbone was tried with."""

    @pytest.mark.parametrize("channels", [1, 3, 5])
    @pytest.mark.parametrize("size", [(16, 16), (17, 40), (33, 9)])
    def test_custom_module(self, channels, size):
        model = RegionModel(TinyNet(channels), image_size=(32, 32)).eval()
        assert model.feature_map.name == "body"
        images, boxes = coded_images(2, size, channels), boxes_in(size)
        logits, regions = model(images, boxes)
        assert torch.equal(logits, model.backbone(images))
        features = model.backbone.body(model.backbone.norm(model.backbone.stem(images)).relu())
        whole = model.region_head(features.mean((2, 3)))
        torch.testing.assert_close(regions[1], whole[1], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(regions[0], whole[0])

    def test_grey(self):
        backbone = timm.create_model("resnet18", num_classes=K, in_chans=1)
        model = RegionModel(backbone, image_size=(64, 64)).eval()
        logits, regions = model(coded_images(2, (32, 48), 1), boxes_in((32, 48)))
        assert logits.shape == regions.shape == (2, K)

    @pytest.mark.parametrize("name", ["timm-resnet18", "timm-convnext", "torchvision-swin", "timm-vit"])
    @pytest.mark.parametrize("region_head", ["separate", "shared"])
    def test_another_size_than_tried(self, name, region_head):
        """Found on a square image, used on wider and higher ones."""
        backbone = CASES[name].build()
        if name == "timm-vit":
            backbone = timm.create_model(
                "vit_tiny_patch16_224", num_classes=K, depth=2, dynamic_img_size=True, global_pool="avg"
            )
        model = RegionModel(backbone, region_head=region_head, image_size=(64, 64)).eval()
        for size in [(64, 128), (96, 64)]:
            logits, regions = model(coded_images(2, size), boxes_in(size))
            assert torch.equal(logits, backbone(coded_images(2, size)))
            if region_head == "shared":
                torch.testing.assert_close(regions[1], logits[1], atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("size", [(48, 80), (80, 48)])
    @pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
    def test_the_box_reads_its_own_place(self, layout, size):
        """Of maps whose cells see their own pixels alone: a patch must come back from where it lies."""
        build, feature = {
            "NCHW": (of_timm("convnext_atto"), "stem"),
            "NHWC": (of_timm("swin_s3_tiny_224", img_size=size, window_size=2), "patch_embed"),
            "tokens": (of_timm("vit_tiny_patch16_224", img_size=size, depth=1), "patch_embed"),
        }[layout]
        model = RegionModel(build(), feature=feature, image_size=size, prefix_tokens=0).eval()
        assert model.feature_map.layout == layout
        images = torch.zeros(1, 3, *size)
        images[..., 32:48, 16:32] = coded_images(1, (16, 16))
        box = torch.tensor([[16, 32, 32, 48]])
        empty = model(torch.zeros(1, 3, *size), box)[1]
        assert not torch.allclose(model(images, box)[1], empty, atol=1e-3)
        transposed = torch.tensor([[32, 16, 48, 32]])
        torch.testing.assert_close(model(images, transposed)[1], empty)

    def test_default_size_is_the_backbones_own(self):
        model = RegionModel(timm.create_model("vit_tiny_patch16_224", depth=1, img_size=48, num_classes=K))
        logits, regions = model(coded_images(2, (48, 48)), boxes_in((48, 48)))
        assert logits.shape == regions.shape == (2, K)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("region_head", ["separate", "shared"])
    def test_dtype_is_the_backbones(self, dtype, region_head):
        backbone = timm.create_model("resnet18", num_classes=K).to(dtype)
        model = RegionModel(backbone, region_head=region_head, image_size=(64, 64)).eval()
        logits, regions = model(coded_images(2, (64, 64)).to(dtype), boxes_in((64, 64)))
        assert logits.dtype == regions.dtype == dtype

    def test_autocast(self):
        model = RegionModel(TinyNet(), image_size=(32, 32)).train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, regions = model(coded_images(2, (32, 32)), boxes_in((32, 32)))
        assert regions.dtype == logits.dtype == torch.bfloat16
        (logits.float().sum() + regions.float().square().sum()).backward()
        assert all(p.grad is not None for p in model.parameters())


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model))}


class TestCopies:
    """A copy has its own weights and its own hook."""

    @pytest.mark.parametrize("how", COPIES.values(), ids=COPIES)
    @pytest.mark.parametrize("region_head", ["separate", "shared"])
    @pytest.mark.parametrize("build", [of_timm("resnet18"), CASES["timm-vit-average"].build])
    def test_gives_the_same_and_stands_alone(self, how, region_head, build):
        model = RegionModel(build(), region_head=region_head, image_size=(64, 64)).eval()
        images, boxes = coded_images(2, (64, 64)), boxes_in((64, 64))
        before = model(images, boxes)
        twin = how(model)
        for ours, theirs in zip(before, twin(images, boxes), strict=True):
            assert torch.equal(ours, theirs)

        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(0.5)
        assert not torch.allclose(twin(images, boxes)[1], before[1])
        for ours, again in zip(before, model(images, boxes), strict=True):
            assert torch.equal(ours, again)
        del model
        assert twin(images, boxes)[1].shape == (2, K)

    def test_after_the_backbone_was_called_alone(self):
        """Such a call must leave no graph behind, which could be neither copied nor freed."""
        model = RegionModel(TinyNet(), image_size=(32, 32))
        images = coded_images(2, (32, 32))
        model(images, boxes_in((32, 32)))
        copy.deepcopy(model)
        model(images)
        copy.deepcopy(model)
        model.backbone(images)
        copy.deepcopy(model)

    def test_after_recomputing_for_gradients(self):
        """Gradient checkpointing runs the hooks once more, in backward."""
        backbone = timm.create_model("vit_tiny_patch16_224", num_classes=K, depth=2, img_size=64)
        backbone.set_grad_checkpointing()
        model = RegionModel(backbone, feature="blocks.1", image_size=(64, 64)).train()
        logits, regions = model(coded_images(2, (64, 64)), boxes_in((64, 64)))
        (logits.sum() + regions.square().sum()).backward()
        copy.deepcopy(model)

    @pytest.mark.parametrize("region_head", ["separate", "shared"])
    def test_state_loads_into_a_fresh_model(self, region_head):
        models = [RegionModel(TinyNet(), region_head=region_head, image_size=(32, 32)) for _ in range(2)]
        models[1].load_state_dict(models[0].state_dict())
        images, boxes = coded_images(2, (32, 32)), boxes_in((32, 32))
        for ours, theirs in zip(*(m.eval()(images, boxes) for m in models), strict=True):
            assert torch.equal(ours, theirs)
        bare = TinyNet()
        bare.load_state_dict(models[0].backbone.state_dict())
        assert torch.equal(bare.eval()(images), models[0](images))


def test_data_parallel_is_refused():
    """``torch.nn.DataParallel`` calls replicas, whose backbone calls the hooks of the original model."""
    model = RegionModel(TinyNet(), image_size=(32, 32))
    replica = model._replicate_for_data_parallel()
    images = coded_images(2, (32, 32))
    torch.testing.assert_close(replica(images), model(images))  # as in evaluation
    with pytest.raises(
        RuntimeError, match=r"nn\.DataParallel does not work .* use .*DistributedDataParallel"
    ):
        replica(images, boxes_in((32, 32)))
    replica.backbone = model.backbone._replicate_for_data_parallel()
    replica.backbone._modules = {}  # lists no parameters, as the replicas on other devices
    replica.backbone.forward = model.backbone.forward
    with pytest.raises(RuntimeError, match="should be the same"):  # the backbone's own error
        replica(images.double())


@pytest.mark.parametrize("region_head", ["separate", "shared"])
@pytest.mark.parametrize("name", ["tiny", "timm-vit-average"])
@pytest.mark.slow
def test_compiles_once(name, region_head):
    """Twenty training steps, each with other boxes: no recompilation after the first ones."""
    options = {"num_classes": K, "depth": 1, "img_size": 32, "global_pool": "avg"}
    if name == "tiny":
        backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, K)
        )
    else:
        backbone = timm.create_model("vit_tiny_patch16_224", **options)
    model = RegionModel(backbone, region_head=region_head, image_size=(32, 32))
    plain = copy.deepcopy(model)
    torch._dynamo.reset()
    try:
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for step in range(20):
            images = coded_images(4, (32, 32)) + step
            boxes = torch.tensor([[step % 7, step % 5, 20 + step % 11, 21 + step % 3]] * 4)
            with torch._dynamo.config.patch(error_on_recompile=step >= 2):
                logits, regions = compiled(images, boxes)
            if step == 0:
                for ours, theirs in zip(plain(images, boxes), (logits, regions), strict=True):
                    torch.testing.assert_close(ours, theirs)
            labels = torch.arange(4)
            (cross_entropy(logits, labels) + cross_entropy(regions, labels)).backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        torch._dynamo.reset()
