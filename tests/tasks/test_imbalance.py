"""Unequal classes: weights in the loss and balanced sampling."""

import json

import pytest
import torch

from recursivemix.data.order import TrainingOrder
from recursivemix.data.splits import strata
from recursivemix.tasks.class_weights import class_weights
from recursivemix.tasks.classification import MixedClassifier
from recursivemix.tasks.settings import ClassificationSettings
from recursivemix.training.fit import fit
from recursivemix.training.prepare import prepare
from recursivemix.training.resume import ResumeError
from samples import write_images

CLASSES = ("a", "b", "c")
LABELS = torch.tensor([0] * 12 + [1] * 3 + [2] * 5)


def test_balanced_weights_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    expected = sklearn.compute_class_weight("balanced", classes=LABELS.unique().numpy(), y=LABELS.numpy())
    assert class_weights("balanced", LABELS, CLASSES) == pytest.approx(expected)
    assert class_weights("balanced", torch.eye(3)[LABELS].byte(), CLASSES) == pytest.approx(expected)
    with pytest.raises(ValueError, match="'c' has none"):
        class_weights("balanced", LABELS[:15], CLASSES)


def test_weights_of_a_file(tmp_path):
    file = tmp_path / "weights.json"
    file.write_text(json.dumps({"c": 3, "a": 1, "b": 0.5}))
    assert class_weights(str(file), LABELS, CLASSES) == [1, 0.5, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "must be balanced or a JSON file"),
        ("[1, 2, 3]", "must hold an object"),
        ('{"a": 1, "b": 1}', "lacks the class 'c'"),
        ('{"a": 1, "b": 1, "c": 1, "d": 1}', "names a class that the data lack, 'd'"),
        ('{"a": 1, "b": 1, "c": 0}', "the weight of 'c' must be a number > 0, got 0"),
        ('{"a": 1, "b": 1, "c": "x"}', "the weight of 'c' must be a number > 0, got 'x'"),
        ('{"a": 1, "b": 1, "c": NaN}', "the weight of 'c' must be a number > 0, got nan"),
    ],
)
def test_a_file_of_other_content_is_refused(tmp_path, content, message):
    file = tmp_path / "weights.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        class_weights(str(file), LABELS, CLASSES)
    assert "\n" not in str(error.value)


def balanced(**options: object) -> TrainingOrder:
    return TrainingOrder(len(LABELS), 4, 7, strata=[members for _, members in strata(LABELS)], **options)


def test_every_class_is_drawn_as_often():
    counts = torch.zeros(len(LABELS), dtype=torch.long)
    for epoch in range(60):
        order = balanced().epoch(epoch)
        assert len(order) == len(LABELS)
        of_class = torch.bincount(LABELS[order], minlength=3)
        assert sorted(of_class.tolist()) == [6, 7, 7]
        seen = torch.bincount(order, minlength=len(LABELS))
        for label in range(3):
            of_images = seen[label == LABELS]
            assert of_images.max() - of_images.min() <= 1  # none repeats before all others have come
        counts += seen
    for label in range(3):  # and over the epochs all images of a class come about as often
        of_images = counts[label == LABELS].double()
        assert of_images.mean() == pytest.approx(60 * 20 / 3 / int((label == LABELS).sum()), rel=0.05)
        assert of_images.max() < 2 * of_images.min()


def test_an_epoch_depends_on_seed_and_epoch_alone():
    assert torch.equal(balanced().epoch(3), balanced().epoch(3))
    assert not torch.equal(balanced().epoch(3), balanced().epoch(4))
    assert torch.equal(balanced().batch(3, 2), balanced().epoch(3)[8:12])


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_images_of_an_epoch(ranks):
    whole = balanced().epoch(5).tolist()
    parts = [balanced(ranks=ranks, rank=rank).epoch(5).tolist() for rank in range(ranks)]
    together = [image for images in zip(*parts, strict=True) for image in images]
    assert together[: len(whole)] == whole
    assert len(together) - len(whole) < ranks


def test_more_classes_than_images_of_an_epoch():
    order = TrainingOrder(3, 2, 0, strata=[torch.tensor([i]) for i in range(3)])
    assert sorted(order.epoch(0).tolist()) == [0, 1, 2]


@pytest.fixture
def unequal(tmp_path):
    for hue, count in enumerate((9, 3)):
        write_images(tmp_path / "data" / "train" / f"class{hue}", count, hue=hue)
        write_images(tmp_path / "data" / "val" / f"class{hue}", 2, hue=hue)
    return tmp_path / "data"


def settings_of(data, out, **options):
    plain = {"data": data, "out": out, "epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu"}
    return ClassificationSettings(**(plain | options))


@pytest.mark.parametrize("cache", ["yes", "no"])
def test_a_run_draws_all_classes_as_often(unequal, tmp_path, cache):
    run = prepare(settings_of(unequal, tmp_path / "run", balanced_sampling=True, cache=cache))
    run.trainer.strategy.connect(run.learner)
    run.loaders.trainer = run.trainer
    run.loaders.loading.fill_cache()
    labels = torch.cat([batch.targets for batch in run.loaders.train_dataloader()])
    assert torch.bincount(labels).tolist() == [6, 6]
    run.learner._trainer = run.trainer
    drawn = torch.cat([batch.indices for batch in run.loaders.train_dataloader()])
    assert torch.equal(run.learner.order().epoch(0), drawn)


def test_weights_of_the_training_images_reach_the_loss(unequal, tmp_path):
    run = prepare(settings_of(unequal, tmp_path / "run", class_weights="balanced"))
    assert run.learner.mixer.class_weights.tolist() == pytest.approx([12 / 18, 12 / 6])
    assert run.learner.hparams["loss_weights"] == pytest.approx([12 / 18, 12 / 6])
    with pytest.raises(ValueError, match="are the same: give one"):
        settings_of(unequal, tmp_path, class_weights="balanced", mixer_options={"class_weights": [1, 1]})


def test_a_changed_file_of_weights_is_another_run(unequal, tmp_path):
    file = tmp_path / "weights.json"
    file.write_text('{"class0": 1, "class1": 2}')
    settings = settings_of(unequal, tmp_path / "run", class_weights=str(file))
    fit(prepare(settings))
    file.write_text('{"class0": 1, "class1": 3}')
    with pytest.raises(ResumeError, match="its loss_weights is"):
        prepare(settings, resume=tmp_path / "run" / "checkpoints" / "last.ckpt")


def test_a_loss_for_one_label_is_refused_for_several():
    facts = (CLASSES, 8, {"images": 20, "mean": [0.5] * 3, "std": [0.5] * 3}, True)
    for loss in ("bce", None):
        options = {} if loss is None else {"loss": loss}
        learner = MixedClassifier(ClassificationSettings(mixer="mixup", mixer_options=options), *facts)
        assert learner.mixer.loss_name == "bce"
    with pytest.raises(ValueError, match=r"--mixer-options\.loss ce is for one label per image"):
        MixedClassifier(ClassificationSettings(mixer="mixup", mixer_options={"loss": "ce"}), *facts)
