"""What all records share: frozen, checked, of one device or of several."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

Provenance = Literal["measured", "estimated", "imported"]


class Record(BaseModel):
    """Base of the frozen records; unknown fields and NaN are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OfDevices(Record):
    """A record that holds those of each device where a search is for several.

    Such a record has a field whose name begins with ``by_device``; for one device it is empty, and not
    written.
    """

    @model_serializer(mode="wrap")
    def _without_devices(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        body: dict[str, Any] = handler(self)
        return {name: value for name, value in body.items() if value or not name.startswith("by_device")}
