"""ManifoldMix, AlignMix and TransMix: what happens inside the network, against a pass by hand."""

import copy
import math
import pickle

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from recursivemix import AlignMix, ManifoldMix, TransMix, create_mixer
from recursivemix.mixing.alignmix import align_and_blend, transport_plan
from recursivemix.mixing.hooks import find_stages

K = 5


class Staged(nn.Module):
    """Three stages and a classifier; with dropout and batch normalisation, as real ones."""

    def __init__(self, recompute: bool = False):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stage1 = self._stage(4, 4)
        self.stage2 = self._stage(4, 6)
        self.stage3 = self._stage(6, 8)
        self.head = nn.Linear(8, K)
        self.recompute = recompute

    @staticmethod
    def _stage(before, after):
        conv = nn.Conv2d(before, after, 3, stride=2, padding=1)
        return nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(after), nn.Tanh()))

    def forward(self, x):
        x = self.stem(x)
        for stage in (self.stage1, self.stage2, self.stage3):
            x = checkpoint(stage, x, use_reentrant=False) if self.recompute else stage(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Staged()


def data(count=6, size=(12, 8), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, *size, generator=generator), torch.arange(count) % K


def by_hand(model, images, draw):
    """The forward pass of `Staged` with the drawn layer mixed sample by sample."""

    def mixed(x):
        lam = draw.lam.expand(len(x))
        return torch.stack([lam[i] * x[i] + (1 - lam[i]) * x[draw.partners[i]] for i in range(len(x))])

    layer = int(draw.layer)
    x = model.stem(mixed(images) if layer == 0 else images)
    for place, stage in enumerate((model.stage1, model.stage2, model.stage3), start=1):
        x = stage(x)
        x = mixed(x) if layer == place else x
    return model.head(x.mean((2, 3)))


class TestManifoldMix:
    @pytest.mark.parametrize("per_sample", [False, True])
    @pytest.mark.parametrize("layer", [0, 1, 2, 3])
    def test_is_the_pass_written_out_by_hand(self, model, layer, per_sample):
        twin = copy.deepcopy(model)
        layers = ("stage1", "stage2", "stage3")
        mixer = ManifoldMix(K, model, layers=layers, per_sample=per_sample)
        images, labels = data()
        draw = mixer.draw(6, (12, 8))._replace(layer=torch.tensor([layer]))
        batch = mixer(images, labels, draw=draw)
        assert (batch.images is images) == (layer > 0)
        loss = mixer.loss(model(batch.images), batch)
        loss.backward()
        logits = by_hand(twin, images, draw)
        one_hot = torch.eye(K)[labels]
        lam = draw.lam.expand(6)[:, None]
        targets = lam * one_hot + (1 - lam) * one_hot[draw.partners]
        expected = -(targets * logits.log_softmax(1)).sum(1).mean()
        expected.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(batch.targets, targets)
        torch.testing.assert_close(batch.lam, draw.lam.expand(6))
        for a, b in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)

    def test_layers_are_drawn_uniformly(self, model):
        mixer = ManifoldMix(K, model)
        assert mixer.layers == ("stage1", "stage2")
        layers = torch.cat([mixer.draw(4, (8, 8)).layer for _ in range(3000)])
        shares = torch.bincount(layers, minlength=3) / 3000
        assert (shares - 1 / 3).abs().max() < 0.035

    def test_acts_once_and_only_in_training(self, model):
        mixer = ManifoldMix(K, model)
        images, labels = data()
        clean_training = model(images)
        clean = model.eval()(images)
        draw = mixer.draw(6, (12, 8))._replace(layer=torch.tensor([1]), lam=torch.tensor([0.3]))
        batch = mixer(images, labels, draw=draw)
        assert torch.equal(model.eval()(images), clean)
        assert torch.equal(model(images[:2]), model(images[:2]))  # of any size
        mixed = model.train()(batch.images)
        assert not torch.allclose(mixed, clean_training, atol=1e-4)
        assert torch.equal(model(images), clean_training)

    def test_off_means_off(self, model):
        mixer = ManifoldMix(K, model)
        images, labels = data()
        clean = model(images)
        for switch in ("eval", "disabled"):
            mixer.train(switch != "eval").enabled = switch != "disabled"
            batch = mixer(images, labels)
            logits = model(batch.images)
            assert torch.equal(logits, clean)
            assert torch.isfinite(mixer.loss(logits, batch))

    def test_a_pass_that_never_comes_is_forgotten(self, model):
        mixer = ManifoldMix(K, model)
        images, labels = data()
        clean = model(images)
        draw = mixer.draw(6, (12, 8))._replace(layer=torch.tensor([1]))
        mixer(images, labels, draw=draw)
        mixer.eval()(images, labels)
        assert torch.equal(model(images), clean)

    def test_wrong_order_and_batch_are_named(self, model):
        mixer = ManifoldMix(K, model)
        images, labels = data()
        draw = mixer.draw(6, (12, 8))._replace(layer=torch.tensor([1]))
        batch = mixer(images, labels, draw=draw)
        with pytest.raises(ValueError, match="has not run in training mode since"):
            mixer.loss(torch.zeros(6, K), batch)
        with pytest.raises(ValueError, match="for a batch of 6, the network's next training pass has 4"):
            model(images[:4])
        model(images)  # the failed pass has left nothing behind
        with pytest.raises(
            ValueError, match=r"draw\.layer is 3, and this mixer has the input, 0, and 2 layers"
        ):
            mixer(images, labels, draw=draw._replace(layer=torch.tensor([3])))
        unused = ManifoldMix(K, nn.Sequential(Staged(), nn.Linear(K, K)), layers=["1"])
        unused.model.forward = lambda x: x.mean((2, 3))
        batch = unused(images, labels, draw=draw)
        unused.model(images)
        with pytest.raises(ValueError, match="did not go through the submodule"):
            unused.loss(torch.zeros(6, K), batch)
        with pytest.raises(ValueError, match="invent classes"):
            mixer(images, labels, masks=torch.zeros(6, 12, 8, dtype=torch.long))

    def test_a_part_that_is_called_twice_is_mixed_once(self):
        torch.manual_seed(0)
        part = nn.Linear(4, 4)
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), part, part, nn.Linear(4, K))
        mixer = ManifoldMix(K, model, layers=["2"])
        images, labels = torch.rand(3, 3, 2, 2), torch.arange(3)
        draw = mixer.draw(3, (2, 2))._replace(
            lam=torch.tensor([0.25]), partners=torch.tensor([1, 2, 0]), layer=torch.tensor([1])
        )
        found = model(mixer(images, labels, draw=draw).images)
        x = part(model[1](images.flatten(1)))
        x = part(0.25 * x + 0.75 * x[[1, 2, 0]])
        torch.testing.assert_close(found, model[4](x))

    def test_tuples_of_hidden_states(self):
        class Pair(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(12, K)

            def forward(self, x):
                return self.inner(x.flatten(1)), None

        class Whole(nn.Module):
            def __init__(self):
                super().__init__()
                self.pair = Pair()

            def forward(self, x):
                hidden, nothing = self.pair(x)
                assert nothing is None
                return hidden

        model = Whole()
        mixer = ManifoldMix(K, model, layers=["pair"])
        images, labels = torch.rand(3, 3, 2, 2), torch.arange(3)
        draw = mixer.draw(3, (2, 2))._replace(lam=torch.tensor([0.0]), layer=torch.tensor([1]))
        found = model(mixer(images, labels, draw=draw).images)
        torch.testing.assert_close(found, model(images)[draw.partners])

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
    def test_a_copy_acts_in_its_own_network(self, model, copied):
        mixer = ManifoldMix(K, model)
        images, labels = data()
        draw = mixer.draw(6, (12, 8))._replace(layer=torch.tensor([2]))
        clean = model(images)
        other = copied(mixer)
        mixed = other.model(other(images, labels, draw=draw).images)
        torch.testing.assert_close(mixed, by_hand(other.model, images, draw))
        assert torch.equal(model(images), clean)
        mixer(images, labels, draw=draw)
        assert torch.equal(other.model(images), clean)

    def test_recomputed_activations_are_mixed_again(self, model):
        images, labels = data()
        gradients = []
        for recompute in (False, True):
            network = copy.deepcopy(model)
            network.recompute = recompute
            mixer = ManifoldMix(K, network, layers=["stage2.0"])  # inside of what is recomputed
            draw = ManifoldMix(K, model).draw(6, (12, 8))
            draw = draw._replace(layer=torch.tensor([1]))
            batch = mixer(images, labels, draw=draw)
            mixer.loss(network(batch.images), batch).backward()
            gradients.append([p.grad for p in network.parameters()])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, of its compiler
    @pytest.mark.slow
    def test_a_compiled_network_is_mixed(self, model):
        mixer = ManifoldMix(K, model)
        images, labels = data()
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager")
        model.compile(backend="aot_eager")
        for layer in (1, 2, 0, 1):
            draw = mixer.draw(6, (12, 8))._replace(layer=torch.tensor([layer]))
            expected = by_hand(model, images, draw)
            for network in (compiled, model):
                batch = mixer(images, labels, draw=draw)
                logits = network(batch.images)
                torch.testing.assert_close(logits, expected)
                assert torch.isfinite(mixer.loss(logits, batch))
        torch._dynamo.reset()


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("resnet10t", ["layer1", "layer2", "layer3", "layer4"]),  # its stem has three layers
        ("convnext_atto", [f"stages.{i}" for i in range(4)]),
        ("vit_tiny_patch16_224", [f"blocks.{i}" for i in range(12)]),
        ("regnety_002", ["s1", "s2", "s3", "s4"]),
        ("pvt_v2_b0", [f"stages.{i}" for i in range(4)]),
        ("swin_tiny_patch4_window7_224", [f"layers.{i}" for i in range(4)]),
    ],
)
def test_stages_are_found(name, stages):
    with torch.device("meta"):
        assert find_stages(timm.create_model(name)) == stages


def test_stages_that_cannot_be_found_are_to_be_named():
    with pytest.raises(ValueError, match=r"no stages were found in Linear: name the submodules .* layers="):
        ManifoldMix(K, nn.Linear(3, K))
    with pytest.raises(ValueError, match="got 'stage9'; this Staged has stem, stage1"):
        ManifoldMix(K, Staged(), layers=["stage1", "stage9"])
    with pytest.raises(ValueError, match="got none"):
        ManifoldMix(K, Staged(), layers=[])
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, K))
    assert ManifoldMix(K, small).layers == ("0",)
    with pytest.raises(ValueError, match="works inside the network"):
        create_mixer("manifoldmix", K)


class TestTransport:
    def test_rows_and_columns_sum_to_one_share(self):
        a, b = torch.randn(2, 4, 9, 5)
        plan = transport_plan(a, b, 0.5, 500)
        assert (plan >= 0).all()
        torch.testing.assert_close(plan.sum(1), torch.full((4, 9), 1 / 9))
        torch.testing.assert_close(plan.sum(2), torch.full((4, 9), 1 / 9), atol=2e-4, rtol=0)

    def test_is_sinkhorns_scaling_of_rows_and_columns(self):
        """Reference: the same iterations without logarithms, in float64 and plain loops."""
        a, b = torch.rand(2, 1, 4, 3, dtype=torch.float64)
        kernel = [[math.exp(-float((x - y).square().sum()) / 0.4) for y in b[0]] for x in a[0]]
        for _ in range(7):
            kernel = [[v / sum(row) / 4 for v in row] for row in kernel]
            sums = [sum(row[j] for row in kernel) for j in range(4)]
            kernel = [[row[j] / sums[j] / 4 for j in range(4)] for row in kernel]
        torch.testing.assert_close(transport_plan(a, b, 0.4, 7)[0].double(), torch.tensor(kernel).double())

    def test_a_map_is_aligned_with_itself_and_with_its_shuffle(self):
        a = 10 * torch.randn(3, 6, 5)
        torch.testing.assert_close(transport_plan(a, a, 0.1, 50), torch.eye(6).expand(3, 6, 6) / 6)
        order = torch.randperm(6)
        expected = torch.eye(6)[order].T.expand(3, 6, 6) / 6  # place order[j] goes to j
        torch.testing.assert_close(transport_plan(a, a[:, order], 0.1, 50), expected)

    def test_distant_features_in_half_precision_do_not_underflow(self):
        a, b = (100 * torch.randn(2, 2, 4, 3)).half()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plan = transport_plan(a, b, 0.1, 100)
        assert plan.dtype == torch.float32
        torch.testing.assert_close(plan.sum(1), torch.full((2, 4), 0.25), atol=1e-3, rtol=0)


class TestAlignMix:
    @pytest.mark.parametrize("onto_own", [True, False])
    @pytest.mark.parametrize("layout", ["NCHW", "NHWC", "tokens"])
    def test_is_the_sum_over_places_written_out(self, onto_own, layout):
        torch.manual_seed(0)
        features = torch.randn(3, 5, 3, 2)  # (B, C, h, w)
        lam, partners = torch.tensor([0.2, 0.5, 1.0]), torch.tensor([1, 2, 0])
        flat = features.flatten(2)  # (B, C, r)
        expected = torch.empty_like(flat)
        for i, j in enumerate(partners.tolist()):
            plan = 6 * transport_plan(flat[i : i + 1].mT, flat[j : j + 1].mT, 0.3, 40)[0]
            for place in range(6):
                if onto_own:
                    moved = sum(plan[place, k] * flat[j, :, k] for k in range(6))
                    expected[i, :, place] = lam[i] * flat[i, :, place] + (1 - lam[i]) * moved
                else:
                    moved = sum(plan[k, place] * flat[i, :, k] for k in range(6))
                    expected[i, :, place] = lam[i] * moved + (1 - lam[i]) * flat[j, :, place]
        given = {"NCHW": features, "NHWC": features.permute(0, 2, 3, 1), "tokens": flat.mT}[layout]
        prefix = torch.randn(3, 2, 5)
        if layout == "tokens":
            given = torch.cat([prefix, given], 1)
        found = align_and_blend(
            given, lam, partners, onto_own=onto_own, image_size=(24, 16), epsilon=0.3, iterations=40,
            prefix_tokens=2 if layout == "tokens" else 0,
        )  # fmt: skip
        assert found.shape == given.shape
        if layout == "tokens":
            blended = lam[:, None, None] * prefix + (1 - lam[:, None, None]) * prefix[partners]
            torch.testing.assert_close(found[:, :2], blended)
            found = found[:, 2:].mT
        elif layout == "NHWC":
            found = found.permute(0, 3, 1, 2).flatten(2)
        torch.testing.assert_close(found.reshape(expected.shape), expected, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("layer", [0, 1, 2])
    def test_mixes_the_last_stage_of_the_network(self, model, layer):
        mixer = AlignMix(K, model, epsilon=0.2)
        assert mixer.layer == "stage3"
        images, labels = data(size=(24, 16))
        draw = mixer.draw(6, (24, 16))._replace(layer=torch.tensor([layer]))
        batch = mixer(images, labels, draw=draw)
        found = model(batch.images)
        lam = draw.lam.expand(6)
        if layer == 0:
            weight = lam[:, None, None, None]
            images = weight * images + (1 - weight) * images[draw.partners]
        x = model.stage3(model.stage2(model.stage1(model.stem(images))))
        if layer > 0:
            options = {"image_size": (24, 16), "epsilon": 0.2, "iterations": 100}
            x = align_and_blend(x, lam, draw.partners, onto_own=layer == 1, **options)
        torch.testing.assert_close(found, model.head(x.mean((2, 3))))
        mixer.loss(found, batch).backward()
        assert all(p.grad is not None for p in model.parameters())

    def test_half_of_the_batches_are_mixed_in_the_input(self, model):
        mixer = AlignMix(K, model)
        layers = torch.cat([mixer.draw(4, (8, 8)).layer for _ in range(4000)])
        shares = torch.bincount(layers, minlength=3) / 4000
        assert (shares - torch.tensor([0.5, 0.25, 0.25])).abs().max() < 0.035

    def test_wrong_settings_are_named(self, model):
        with pytest.raises(ValueError, match="epsilon is a weight"):
            AlignMix(K, model, epsilon=0)
        mixer = AlignMix(K, model, layer="head")
        images, labels = data()
        draw = mixer.draw(6, (12, 8))._replace(layer=torch.tensor([1]))
        mixer(images, labels, draw=draw)
        with pytest.raises(ValueError, match=r"feature maps .* got \(6, 5\); name another submodule"):
            model(images)
        with pytest.raises(ValueError, match=r"draw\.layer must be 0, 1 or 2"):
            mixer(images, labels, draw=draw._replace(layer=torch.tensor([3])))

    def test_sequences_are_refused(self, model):
        """(B, C, L) features would be taken for (B, tokens, C)."""
        mixer = AlignMix(K, model, spatial_dims=(-1,))
        images, labels = torch.rand(6, 3, 12), torch.arange(6) % K
        draw = mixer.draw(6, (12,))._replace(layer=torch.tensor([1]))
        with pytest.raises(ValueError, match=r"AlignMix aligns maps of images .* got shape \(6, 3, 12\)"):
            mixer(images, labels, draw=draw)


def transformer(**options):
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 8, "depth": 2, "num_heads": 2}
    return VisionTransformer(num_classes=K, dynamic_img_size=True, **sizes | options)


class TestTransMix:
    @pytest.mark.parametrize("per_sample", [False, True])
    @pytest.mark.parametrize("size", [(8, 8), (12, 6)])
    @pytest.mark.parametrize(
        "options", [{}, {"qk_norm": True, "reg_tokens": 3}], ids=["plain", "registers"]
    )
    def test_label_is_the_networks_own_attention(self, options, size, per_sample):
        """Reference: the weights that timm's unfused attention hands to its dropout, patch by patch."""
        model = transformer(**options)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.7)  # attention that differs from place to place
        prefix = model.num_prefix_tokens
        seen = []
        model.blocks[-1].attn.fused_attn = False
        model.blocks[-1].attn.attn_drop.register_forward_hook(lambda m, i, o: seen.append(o.detach()))
        mixer = TransMix(K, model, per_sample=per_sample, label_smoothing=0.1, seed=3)
        images, labels = data(size=size)
        batch = mixer(images, labels)
        logits = model(batch.images)
        (attention,) = seen  # (B, heads, N, N)
        height, width = size
        targets = torch.zeros(6, K)
        for i in range(6):
            x1, y1, x2, y2 = batch.draw.boxes.expand(6, 4)[i].tolist()
            own = total = 0.0
            for patch in range(height // 2 * (width // 2)):
                row, column = divmod(patch, width // 2)
                y, x = row * height // (height // 2), column * width // (width // 2)
                weight = sum(float(attention[i, head, 0, prefix + patch]) for head in range(2))
                total += weight
                own += 0.0 if y1 <= y < y2 and x1 <= x < x2 else weight
            targets[i, labels[i]] += own / total
            targets[i, labels[batch.draw.partners[i]]] += 1 - own / total
        assert not torch.allclose(targets, batch.targets, atol=1e-3)
        targets = 0.9 * targets + 0.1 / K
        expected = -(targets * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(mixer.loss(logits, batch), expected)

    def test_half_pixels_half_attention_is_the_authors_code(self):
        model = transformer()
        images, labels = data()
        losses = []
        for share in (0.0, 0.5, 1.0):
            mixer = TransMix(K, model, area_share=share, seed=1)
            batch = mixer(images[..., :8, :], labels)
            losses.append(mixer.loss(model(batch.images), batch))
        torch.testing.assert_close(losses[1], (losses[0] + losses[2]) / 2)
        torch.testing.assert_close(losses[2], mixer.label_loss(model(batch.images), batch))

    def test_off_means_pixels_alone(self):
        model = transformer()
        mixer = TransMix(K, model).eval()
        batch = mixer(torch.rand(4, 3, 8, 8), torch.arange(4))
        logits = model(batch.images)
        assert torch.equal(mixer.loss(logits, batch), mixer.label_loss(logits, batch))

    @pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, of its compiler
    @pytest.mark.slow
    def test_a_compiled_network_needs_its_hooks_guarded(self):
        model, images = transformer(), torch.rand(4, 3, 8, 8)
        mixer = TransMix(K, model)
        draw = mixer.draw(4, (8, 8))
        batch = mixer(images, torch.arange(4), draw=draw)
        expected = mixer.loss(model(images), batch)
        torch._dynamo.reset()
        model.compile(backend="aot_eager")
        batch = mixer(images, torch.arange(4), draw=draw)
        model(images)
        with pytest.raises(ValueError, match="skip_nnmodule_hook_guards = False before its first pass"):
            mixer.loss(torch.zeros(4, K), batch)
        torch._dynamo.reset()
        with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
            for _ in range(3):
                batch = mixer(images, torch.arange(4), draw=draw)
                torch.testing.assert_close(mixer.loss(model(images), batch), expected)
        torch._dynamo.reset()

    def test_soft_labels_with_bce(self):
        model = transformer()
        mixer = TransMix(K, model, loss="bce")
        multi_hot = torch.eye(K)[:4] + torch.eye(K)[1:]
        batch = mixer(torch.rand(4, 3, 8, 8), multi_hot)
        assert torch.isfinite(mixer.loss(model(batch.images), batch))

    def test_wrong_order_is_named(self):
        model = transformer()
        mixer = TransMix(K, model)
        batch = mixer(torch.rand(4, 3, 8, 8), torch.arange(4))
        with pytest.raises(ValueError, match="has not run in training mode"):
            mixer.loss(torch.zeros(4, K), batch)
        logits = model(batch.images)
        mixer.eval()(torch.rand(4, 3, 8, 8), torch.arange(4))
        with pytest.raises(ValueError, match="is of another batch"):
            mixer.loss(logits, batch)

    @pytest.mark.parametrize(
        "network",
        [
            Staged,
            lambda: transformer(global_pool="avg"),
            lambda: transformer(class_token=False, global_pool="avg"),
            lambda: transformer(attn_layer="diff"),
        ],
    )
    def test_a_network_without_known_attention_is_refused(self, network):
        with pytest.raises(ValueError, match="reads the class token's attention"):
            TransMix(K, network())

    def test_attention_with_positions_or_masks_is_refused(self):
        model = transformer()
        mixer = TransMix(K, model)
        mixer(torch.rand(2, 3, 8, 8), torch.arange(2))
        with pytest.raises(ValueError, match="more than its tokens"):
            model(torch.rand(2, 3, 8, 8), attn_mask=torch.zeros(17, 17))


@pytest.mark.parametrize("name", ["manifoldmix", "alignmix", "transmix"])
def test_training_resumes_bit_for_bit(name):
    def start():
        model = transformer() if name == "transmix" else Staged()
        return model, create_mixer(name, K, model, seed=3), torch.optim.SGD(model.parameters(), 0.1)

    def run(model, mixer, optimizer, steps):
        for t in steps:
            images, labels = data(size=(8, 8), seed=t)
            batch = mixer(images, labels)
            loss = mixer.loss(model(batch.images), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mixer.remember(batch, None)
        return [p.detach().clone() for p in model.parameters()]

    torch.manual_seed(0)
    whole = run(*start(), range(8))
    torch.manual_seed(0)
    first = start()
    run(*first, range(4))
    second = start()
    second[0].load_state_dict(first[0].state_dict())
    second[1].load_state_dict(first[1].state_dict())
    for a, b in zip(whole, run(*second, range(4, 8)), strict=True):
        assert torch.equal(a, b)
