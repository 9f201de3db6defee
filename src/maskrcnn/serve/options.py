"""What a caller may ask for, from the query, a form or JSON alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .refusal import Refusal


def _texts(value: Any) -> Any:
    """One name, or several; numbers are indices."""
    several = value if isinstance(value, (list, tuple)) else [value]
    return [str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in several]


class Options(BaseModel):
    """Parameters of /v1/predict."""

    model_config = ConfigDict(extra="forbid")

    score: float | None = Field(None, ge=0, le=1, description="Least score; default: the model's own.")
    classes: Annotated[list[str] | None, BeforeValidator(_texts)] = Field(
        None, description="Only these classes: names, or numbers from 0; repeated, or with commas between."
    )
    max_detections: int | None = Field(None, ge=1, le=1000, description="At most this many instances.")
    format: Literal["json", "coco", "overlay", "geojson"] = Field(
        "json", description="json and coco have masks as COCO run lengths; overlay is a PNG."
    )
    outlines: bool = Field(
        False, description="With format=json: also polygons, holes included, and a colour for each instance."
    )


@dataclass(frozen=True)
class Limits:
    """The part that the network must know; requests with equal limits can share a batch."""

    score: float | None = None
    classes: tuple[str | int, ...] | None = None
    max_detections: int | None = None


def merge(query: Options, fields: Mapping[str, Any]) -> Options:
    """The query's parameters with those of the body in their place. Raises Refusal."""
    given = query.model_dump(exclude_unset=True) | dict(fields)
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        raise Refusal(422, explain_invalid(error.errors())) from None


def explain_invalid(errors: Sequence[Any]) -> str:
    """Pydantic's findings in one line, without the values that came."""
    said = []
    for error in errors[:5]:
        where = ".".join(str(part) for part in error["loc"] if part != "query") or "request"
        said.append(f"{where[:60]}: {error['msg']}")
    return "; ".join(said) + f"; there are: {', '.join(Options.model_fields)}"


def limits(options: Options, names: Sequence[str]) -> Limits:
    """Class names and numbers as the model takes them; a name may have commas of its own."""
    if options.classes is None:
        return Limits(options.score, None, options.max_detections)
    parts: list[str] = []
    for text in options.classes:
        parts += [text] if text in names else [p.strip() for p in text.split(",") if p.strip()]
    wanted = tuple(int(p) if p.isdecimal() and p not in names else p for p in parts)
    unknown = [w for w in wanted if w not in names and not (isinstance(w, int) and w < len(names))]
    if unknown or not wanted:
        known = ", ".join(names[:100])
        got = ", ".join(str(one)[:60] for one in unknown[:5]) or "none"
        raise Refusal(422, f"classes: want some of {known}, or their numbers from 0; got {got}")
    return Limits(options.score, wanted, options.max_detections)
