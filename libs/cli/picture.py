"""Pictures of a drive: an SVG file, and braille dots for the terminal; coloured by speed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from rich.style import Style
from rich.text import Text

METERS_PER_DEGREE = 111_194.93  # of latitude, on the mean earth radius of 6,371,008.8 m
# Upper bound in km/h, colour, name. The colours are seen on light and on dark ground.
SPEEDS = (
    (15.0, "#8b5cf6", "under 15"),
    (30.0, "#3b82f6", "15 to 30"),
    (50.0, "#0d9488", "30 to 50"),
    (80.0, "#65a30d", "50 to 80"),
    (math.inf, "#ea580c", "80 and more"),
)
NO_SPEED = "#6b7280"
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of a braille cell
BRAILLE = 0x2800
START, END = "S", "E"
MARGIN_PX = 24
LEGEND_PX = 500
FOOT_PX = 56


@dataclass(frozen=True, slots=True)
class Spot:
    """A point of the drawing."""

    lat: float
    lng: float
    speed_kph: float | None = None


@dataclass(frozen=True, slots=True)
class Plane:
    """Spots laid flat: metres east and north of the south-western corner."""

    points: tuple[tuple[float, float], ...]
    width_m: float
    height_m: float

    def size_m(self) -> float:
        """The longer side, at least a metre, so that a parked car can be drawn."""
        return max(self.width_m, self.height_m, 1.0)


def flatten(spots: Sequence[Spot]) -> Plane:
    """Project by the middle latitude, which keeps shapes; a drive over 180° stays in one piece."""
    if not spots:
        return Plane((), 0, 0)
    middle = (min(spot.lat for spot in spots) + max(spot.lat for spot in spots)) / 2
    narrow = math.cos(math.radians(middle))
    east = [_turn(spot.lng - spots[0].lng) * narrow * METERS_PER_DEGREE for spot in spots]
    north = [spot.lat * METERS_PER_DEGREE for spot in spots]
    west, south = min(east), min(north)
    points = tuple((x - west, y - south) for x, y in zip(east, north, strict=True))
    return Plane(points, max(east) - west, max(north) - south)


def _turn(degrees: float) -> float:
    return (degrees + 180) % 360 - 180


def colour(speed_kph: float | None) -> str:
    """The colour of a speed."""
    if speed_kph is None:
        return NO_SPEED
    return next(colour for below, colour, _ in SPEEDS if speed_kph < below)


def svg(spots: Sequence[Spot], *, title: str, size_px: int = 800) -> str:
    """A standalone SVG: the route in its true proportions, start and end, a scale bar, a legend."""
    plane = flatten(spots)
    scale = (size_px - 2 * MARGIN_PX) / plane.size_m()
    width = max(round(plane.width_m * scale) + 2 * MARGIN_PX, LEGEND_PX)
    height = round(plane.height_m * scale) + 2 * MARGIN_PX
    dots = [(MARGIN_PX + x * scale, height - MARGIN_PX - y * scale) for x, y in plane.points]
    total = height + FOOT_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" '
        f'width="{width}" height="{total}" role="img" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{total}" fill="#ffffff"/>',
        *_lines(dots, spots),
        *_marks(dots),
        *_scale_bar(scale, height),
        *_legend(spots, height + 38),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _lines(dots: Sequence[tuple[float, float]], spots: Sequence[Spot]) -> Iterator[str]:
    style = 'fill="none" stroke-width="3" stroke-linejoin="round" stroke-linecap="round"'
    for first, last, paint in runs(spots):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots[first : last + 1])
        yield f'<polyline points="{line}" stroke="{paint}" {style}/>'


def runs(spots: Sequence[Spot]) -> Iterator[tuple[int, int, str]]:
    """Stretches of one colour, as (first, last, colour); a step has the colour of its end."""
    first = 0
    for index in range(1, len(spots)):
        paint = colour(spots[index].speed_kph)
        ends = index + 1 == len(spots) or colour(spots[index + 1].speed_kph) != paint
        if ends:
            yield first, index, paint
            first = index


def _marks(dots: Sequence[tuple[float, float]]) -> Iterator[str]:
    for name, paint, place in (("start", "#15803d", dots[:1]), ("end", "#b91c1c", dots[-1:])):
        for x, y in place:
            yield (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{paint}" stroke="#ffffff" '
                f'stroke-width="2"><title>{name}</title></circle>'
            )
            yield f'<text x="{x + 9:.1f}" y="{y - 6:.1f}" fill="{paint}">{name}</text>'


def _scale_bar(scale: float, top: float) -> Iterator[str]:
    meters = round_length(120 / scale)
    right = MARGIN_PX + meters * scale
    yield (
        f'<path d="M{MARGIN_PX} {top + 4} v6 H{right:.1f} v-6" fill="none" stroke="#111827"/>'
        f'<text x="{right + 6:.1f}" y="{top + 12}" fill="#111827">{length(meters)}</text>'
    )


def _legend(spots: Sequence[Spot], top: float) -> Iterator[str]:
    if all(spot.speed_kph is None for spot in spots):
        return
    x = MARGIN_PX
    for _, paint, name in SPEEDS:
        yield f'<rect x="{x}" y="{top - 9}" width="14" height="10" fill="{paint}"/>'
        yield f'<text x="{x + 18}" y="{top}" fill="#111827">{name}</text>'
        x += 78
    yield f'<text x="{x + 14}" y="{top}" fill="#111827">km/h</text>'


def round_length(at_most_m: float) -> float:
    """The largest of 1, 2, 5, 10, 20, 50 … metres that is not above `at_most_m`."""
    power = 10.0 ** math.floor(math.log10(max(at_most_m, 1e-3)))
    return next(step * power for step in (5, 2, 1) if step * power <= at_most_m * (1 + 1e-9))


def length(meters: float) -> str:
    """200 m, 1.5 km."""
    return f"{meters / 1000:g} km" if meters >= 1000 else f"{meters:g} m"


def terminal(spots: Sequence[Spot], *, columns: int = 72, rows: int = 24) -> Text:
    """The route in braille dots, as large as fits; S where it starts and E where it ends."""
    plane = flatten(spots)
    per_dot = max(plane.width_m / (columns * 2 - 1), plane.height_m / (rows * 4 - 1), 1e-3)
    top = int(plane.height_m / per_dot)
    dots = [(int(x / per_dot), top - int(y / per_dot)) for x, y in plane.points]
    canvas = _Canvas()
    for index, (dot, after) in enumerate(pairwise(dots), start=1):
        for x, y in _line(dot, after):
            canvas.dot(x, y, colour(spots[index].speed_kph))
    if dots:
        canvas.letter(*dots[-1], END)
        canvas.letter(*dots[0], START)
    return canvas.text()


def legend() -> Text:
    """Which colour is which speed."""
    text = Text("km/h: ")
    for _, paint, name in SPEEDS:
        text.append("■ ", Style(color=paint)).append(f"{name}  ")
    return text


class _Canvas:
    """Dots and letters in cells of 2 x 4 dots; a cell has the colour that most of it has."""

    def __init__(self) -> None:
        self._dots: dict[tuple[int, int], int] = {}
        self._paints: dict[tuple[int, int], Counter[str]] = {}
        self._letters: dict[tuple[int, int], str] = {}

    def dot(self, x: int, y: int, paint: str) -> None:
        cell = (y // 4, x // 2)
        self._dots[cell] = self._dots.get(cell, 0) | DOTS[y % 4][x % 2]
        self._paints.setdefault(cell, Counter())[paint] += 1

    def letter(self, x: int, y: int, letter: str) -> None:
        self._letters[y // 4, x // 2] = letter

    def text(self) -> Text:
        text = Text(no_wrap=True)
        rows = max((row for row, _ in (*self._dots, *self._letters)), default=-1)
        for row in range(rows + 1):
            for column in range(self._width(row)):
                text.append(*self._cell((row, column)))
            text.append("\n")
        return text

    def _width(self, row: int) -> int:
        return 1 + max((c for r, c in (*self._dots, *self._letters) if r == row), default=-1)

    def _cell(self, cell: tuple[int, int]) -> tuple[str, Style]:
        if cell in self._letters:
            return self._letters[cell], Style(bold=True, reverse=True)
        if cell in self._dots:
            (paint, _), *_ = self._paints[cell].most_common(1)
            return chr(BRAILLE + self._dots[cell]), Style(color=paint)
        return " ", Style()


def _line(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The dots from one to the other, both included."""
    (x0, y0), (x1, y1) = start, end
    steps = max(abs(x1 - x0), abs(y1 - y0), 1)
    for step in range(steps + 1):
        yield round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps)
