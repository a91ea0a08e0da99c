"""The fake device as one that computes int8."""

from __future__ import annotations

from hwnas.backends import forms
from hwnas.backends.fake import Fake
from hwnas.protocols import Int8Form
from hwnas.records import Precision, Setting


class FakeOfInt8(Fake):
    """Takes int8, in OpenVINO's forms for any processor; what it costs is for a test to say (`build`)."""

    def setting(self, device: str, precision: Precision, batch: int, threads: int) -> Setting:
        known = super().setting(device, "fp32", batch, threads)
        return known.model_copy(update={"precision": precision})

    def forms(self) -> tuple[Int8Form, ...]:
        return tuple(form for form in forms.openvino() if form.rest == "fp32")
