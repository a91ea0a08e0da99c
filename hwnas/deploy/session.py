"""Run an exported engine in a program: the five lines that a user deploys with.

::

    from hwnas.runtime import Session

    with Session("runs/latest") as session:
        for name, probability in session.top(image, 3)[0]:
            print(f"{name}: {probability:.1%}")
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwnas.arrays import Float32s
from hwnas.deploy import engine as engines
from hwnas.deploy import preprocess
from hwnas.deploy.manifest import EngineManifest, find_engine, read_manifest
from hwnas.errors import InputError, VerificationFailed
from hwnas.protocols import Backend, Engine


class Session:
    """An engine with its manifest, ready to classify images.

    Several threads may call one session: it runs one call at a time, and the others wait, since an engine has
    one input, one output and (on a GPU) one stream. For calls at once open a session for each thread.

    Attributes:
        manifest: what the engine is, how it was verified and how fast it was.
        classes: names of the classes; "0", "1", ... where the training data gave none.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        backend: Backend | None = None,
        threads: int | None = None,
        bgr: bool = False,
    ) -> None:
        """Load an engine.

        Args:
            path: engine file, or a folder that holds one (a run).
            backend: default the one that the engine was exported for.
            threads: default as it was measured.
            bgr: images in bytes have their channels in reverse order, as OpenCV gives them.

        Raises:
            InputError: no engine there, or several.
            DataFormatError: engine or manifest was changed.
            BackendUnavailable: the runtime is not here, or not the one it was built for.
            VerificationFailed: its scores were found to differ from the network's.
        """
        file = find_engine(Path(path))
        self.manifest: EngineManifest = read_manifest(file)
        wrong = [c.detail for c in self.manifest.checks if c.name == "parity" and not c.passed]
        if wrong:
            raise VerificationFailed(f"{file} failed its parity check ({wrong[0]}); export it again")
        self._engine: Engine = engines.load(file, backend, threads=threads)
        spec = self.manifest.network
        self.classes = self.manifest.classes or tuple(str(i) for i in range(spec.classes))
        self._bgr = bgr
        self._one_at_a_time = threading.Lock()

    def scores(self, images: NDArray[Any] | Sequence[NDArray[Any]]) -> Float32s:
        """Raw scores (logits), (n, classes) float32.

        Args:
            images: uint8 (n, H, W, C) or (H, W, C) of any size, as image libraries give them:
                cropped to the middle in the network's proportions, resized, scaled to [0, 1] and
                normalised, as in training; or float (n, C, H, W), taken as normalised; or a list of
                pictures (H, W, C), each of its own size.

        Raises:
            InputError: another type or shape.
        """
        with self._one_at_a_time:
            return preprocess.scores(self._engine, self.manifest, images, bgr=self._bgr)

    def __call__(self, images: NDArray[Any] | Sequence[NDArray[Any]]) -> Float32s:
        """Class probabilities (n, classes) of images as in `scores`; each row sums to 1."""
        scores = self.scores(images).astype(np.float64)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares: Float32s = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        return shares

    def top(self, images: NDArray[Any] | Sequence[NDArray[Any]], k: int = 1) -> list[list[tuple[str, float]]]:
        """The k likeliest classes of each image with their probabilities, likeliest first."""
        if not isinstance(k, int) or not 1 <= k <= len(self.classes):
            raise InputError(f"k must be 1 to {len(self.classes)}, the number of classes; got {k!r}")
        rows = self(images)
        order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
        return [[(self.classes[i], float(row[i])) for i in best] for row, best in zip(rows, order)]

    def close(self) -> None:
        """Free what the runtime holds, once a call that is running is done."""
        with self._one_at_a_time:
            self._engine.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
