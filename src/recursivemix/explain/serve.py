"""Serve the studio to this machine. Torch is imported when it starts."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

from recursivemix.data.names import Source
from recursivemix.training.settings import Device


def serve(
    data: Path | None = None,
    dataset: Source | None = None,
    val_split: float | None = None,
    image_size: int | None = None,
    model: str = "resnet20",
    checkpoint: Path | None = None,
    device: Device = "auto",
    port: int = 7860,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve the studio to this machine until it is interrupted.

    Args:
        data: Folder of images, as in recursivemix fit (default: crops of two photographs).
        dataset: Kind of --data, as in recursivemix fit; digits for the handwritten digits.
        val_split: Share of images held out, as in recursivemix fit, for a folder without splits.
        image_size: Pixels per side (default: as in recursivemix fit).
        model: Network for a method that works inside one; its weights are random.
        checkpoint: File written by recursivemix fit; its activation maps are shown.
        device: Device of its network: cpu, gpu, or auto.
        port: Port on 127.0.0.1; 0 takes a free one.
        tell: called with the page's address.

    Raises:
        ValueError: data or a checkpoint that cannot be used, or a missing package.
        OSError: the port is taken.
    """
    if not 0 <= port < 2**16:
        raise ValueError(f"--port must be in 0..65535, got {port}")
    from .activation import load_named
    from .batches import open_images
    from .server import make_server
    from .studio import Studio

    trained = None if checkpoint is None else load_named([checkpoint], device)[0]
    images = open_images(data, dataset, val_split, image_size, 0)
    server = make_server(Studio(images, model, trained))
    try:
        listening = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise OSError(f"--port {port} cannot be used ({error.strerror}): choose another") from error
    with listening:
        tell(f"http://127.0.0.1:{listening.getsockname()[1]}/ (Ctrl-C ends it)")
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            return
