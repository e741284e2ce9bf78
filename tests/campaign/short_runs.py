"""Commands of runs that take seconds, of several methods and tasks."""

KINDS = {
    "recursivemix": ["fit", "--mixer", "recursivemix", "--checkpoint-every", "3"],
    "every step": ["fit", "--mixer", "cutmix", "--checkpoint-every", "1"],
    "average": ["fit", "--mixer", "mixup", "--ema-decay", "0.9", "--grad-accum-steps", "3"],
    "workers": ["fit", "--mixer", "recursivemix", "--workers", "1", "--cache", "no"],
    "detection": ["transfer", "detection", "--checkpoint-every", "2"],
    "segmentation": ["transfer", "segmentation", "--checkpoint-every", "2"],
}
FIT = ["--epochs", "3", "--batch-size", "5", "--lr", "0.05", "--seed", "4"]
DENSE = ["--epochs", "2", "--batch-size", "4", "--seed", "4", "--trainer.limit-train-batches", "4",
         "--trainer.limit-val-batches", "1", "--channels", "16", "--image-size"]  # fmt: skip
SMALL = {"detection": [*DENSE, "64", "--depth", "1"], "segmentation": [*DENSE, "64"]}


def words_of(kind, data, out):
    command = KINDS[kind]
    words = [*command, "--device", "cpu", "--precision", "32", "--out", str(out)]
    words += ["--trainer.enable-progress-bar", "false"]
    if command[0] == "transfer":
        return [*words, *SMALL[command[1]]]
    return [*words, "--data", str(data), *FIT, *(["--workers", "0"] if kind != "workers" else [])]
