"""What is wrong with a data set, one finding at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Cure = Literal["clips", "drops", "none", "stops"]


@dataclass(frozen=True)
class Finding:
    """One thing that a user should know of.

    kind   : what it is, in a few words; the same for all of its kind
    detail : wanted, got, what to do
    file   : the file it concerns
    record : the image or annotation in that file
    key    : the field of the record
    cure   : what training does: ``clips`` or ``drops`` the record and goes on, ``none`` changes nothing, ``stops``
    """

    kind: str
    detail: str
    file: Path | None = None
    record: str = ""
    key: str = ""
    cure: Cure = "none"

    def __str__(self) -> str:
        where = ", ".join(part for part in (str(self.file or ""), self.record, self.key) if part)
        return f"{where}: {self.detail}" if where else self.detail
