"""The rules over a trip's points, on made-up lines and on recorded drives."""

import hashlib
import struct
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import isfinite
from random import Random

import numpy as np
import polyline
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tracking.drive import (
    EARTH_RADIUS_METERS,
    DrivingEvent,
    Floats,
    Points,
    driving_events,
    encode_route,
    points_hash,
    simplify,
    summarise,
)
from tests.drives import read_drive, recorded_drives, recorded_drives_dir

Row = tuple[int, int, int, int]
METERS_PER_DEGREE = EARTH_RADIUS_METERS * np.pi / 180


def points_of(rows: list[Row]) -> Points:
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return Points(*(column.copy() for column in columns))


def drive(
    meters: Sequence[float], kph: Sequence[float | None] | None = None, *, step_s: float = 1
) -> Points:
    """A drive north along a meridian: how far it is from its start at each step, and how fast."""
    speeds = kph or [None] * len(meters)
    return points_of(
        [
            (
                round(i * step_s * 1e6),
                round(north / METERS_PER_DEGREE * 1e6),
                151_000_000,
                -1 if speed is None else round(speed * 100),
            )
            for i, (north, speed) in enumerate(zip(meters, speeds, strict=True))
        ]
    )


def at_speeds(kph: Sequence[float], *, step_s: float = 1) -> Points:
    """A drive whose positions agree with its recorded speeds."""
    steps = [(a + b) / 2 / 3.6 * step_s for a, b in pairwise(kph)]
    return drive([float(m) for m in np.cumsum([0, *steps])], kph, step_s=step_s)


def without_speeds(points: Points) -> Points:
    return replace(points, speed_ckph=np.full(len(points), -1))


def events_of(points: Points, kind: str) -> list[DrivingEvent]:
    return [event for event in driving_events(points) if event.kind == kind]


def growing_zigzag(count: int) -> Points:
    """A line whose furthest point is always its last: the worst case of simplification."""
    k = np.arange(count)
    return Points(k, k * (-1) ** k, k * 10, np.full(count, -1))


WORLD = st.tuples(
    st.integers(-90_000_000, 90_000_000),
    st.integers(-180_000_000, 180_000_000),
    st.integers(-1, 50_000),
)
PLACES = st.sampled_from(
    [(-33_868_800, 151_209_300), (-16_800_000, 179_999_000), (89_999_000, 0), (-89_990_000, 90_000)]
)


def around(lng: int) -> int:
    return (lng + 180_000_000) % 360_000_000 - 180_000_000


@st.composite
def worldwide(draw: st.DrawFn) -> Points:
    """Points anywhere, in time order, no two at the same time."""
    times = sorted(draw(st.sets(st.integers(0, 10**11), max_size=12)))
    return points_of([(time_us, *draw(WORLD)) for time_us in times])


@st.composite
def journeys(draw: st.DrawFn) -> Points:
    """Points that wander from an ordinary place, next to the antimeridian or next to a pole."""
    lat, lng = draw(PLACES)
    reach = draw(st.sampled_from([0, 20, 5_000, 1_000_000]))
    move = st.integers(-reach, reach)
    rows: list[Row] = []
    for i, (north, east) in enumerate(draw(st.lists(st.tuples(move, move), max_size=60))):
        lat, lng = max(-90_000_000, min(90_000_000, lat + north)), around(lng + east)
        rows.append((i * 1_000_000, lat, lng, -1))
    return points_of(rows)


def haversine(lat1: Floats, lng1: Floats, lat2: Floats, lng2: Floats) -> Floats:
    """Meters between positions in millionths of a degree, written apart from the code's own."""
    a, b, c, d = (np.radians(v / 1e6) for v in (lat1, lng1, lat2, lng2))
    root = np.sin((c - a) / 2) ** 2 + np.cos(a) * np.cos(c) * np.sin((d - b) / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS_METERS * np.arcsin(np.sqrt(np.minimum(root, 1))))


def meters_from_line(points: Points, index: int, first: int, last: int) -> float:
    """Great-circle distance from a point to the line first-last, by ever finer search along it."""
    lat, lng = points.lat_e6.astype(float), points.lng_e6.astype(float)
    climb = lat[last] - lat[first]
    turn = float(around(int(points.lng_e6[last] - points.lng_e6[first])))
    low, high, best = 0.0, 1.0, np.inf
    for _ in range(5):
        share = np.linspace(low, high, 201)
        far = haversine(
            lat[index], lng[index], lat[first] + share * climb, lng[first] + share * turn
        )
        best = min(best, float(far.min()))
        width, middle = (high - low) / 100, share[far.argmin()]
        low, high = max(0.0, middle - width), min(1.0, middle + width)
    return best


class TestPoints:
    def test_empty_holds_nothing(self) -> None:
        assert len(Points.empty()) == 0

    def test_parts_are_joined_in_their_order(self) -> None:
        whole = at_speeds([10, 20, 30, 40])
        parts = [whole.select(np.arange(2)), Points.empty(), whole.select(np.arange(2, 4))]
        assert points_hash(Points.concatenate(parts)) == points_hash(whole)

    def test_no_parts_make_no_points(self) -> None:
        assert len(Points.concatenate([])) == 0


class TestSummary:
    def test_no_points_have_no_box_and_no_distance(self) -> None:
        summary = summarise(Points.empty())
        assert (summary.point_count, summary.distance_meters, summary.avg_speed_kph) == (0, 0, 0)
        assert (summary.min_lat, summary.max_lng, summary.route) == (None, None, "")

    def test_a_single_point_is_its_own_box_and_route(self) -> None:
        summary = summarise(points_of([(5, -33_868_800, 151_209_300, 4_210)]))
        assert (summary.min_lat, summary.min_lng) == (-33.8688, 151.2093)
        assert (summary.max_lat, summary.max_lng) == (-33.8688, 151.2093)
        assert (summary.duration_seconds, summary.max_speed_kph) == (0, 42.1)
        assert polyline.decode(summary.route, 6) == [(-33.8688, 151.2093)]

    def test_a_degree_along_the_equator_is_111_195_meters(self) -> None:
        points = points_of([(0, 0, 0, -1), (10**6, 0, 1_000_000, -1)])
        assert summarise(points).distance_meters == pytest.approx(111_195.08, abs=0.01)

    def test_antipodes_are_half_the_circumference_apart(self) -> None:
        points = points_of([(0, 0, 0, -1), (1, 0, 180_000_000, -1)])
        assert summarise(points).distance_meters == pytest.approx(np.pi * EARTH_RADIUS_METERS)

    @given(worldwide())
    def test_distance_is_the_same_both_ways_and_never_negative(self, points: Points) -> None:
        backwards = replace(points, lat_e6=points.lat_e6[::-1], lng_e6=points.lng_e6[::-1])
        there, back = summarise(points).distance_meters, summarise(backwards).distance_meters
        assert there >= 0
        assert there == pytest.approx(back)

    @given(worldwide())
    def test_every_figure_is_finite_and_agrees_with_the_others(self, points: Points) -> None:
        summary = summarise(points)
        assert isfinite(summary.distance_meters)
        assert 0 <= summary.moving_seconds <= summary.duration_seconds
        assert 0 <= summary.avg_speed_kph <= (summary.max_speed_kph or 300) <= 500

    @given(worldwide())
    def test_the_box_holds_every_point(self, points: Points) -> None:
        box = summarise(points)
        lat, lng = points.lat_e6 / 1e6, points.lng_e6 / 1e6
        if box.min_lat is None or box.max_lat is None or box.min_lng is None or box.max_lng is None:
            assert len(points) == 0
            return
        assert ((box.min_lat <= lat) & (lat <= box.max_lat)).all()
        east_of_west, west_of_east = box.min_lng <= lng, lng <= box.max_lng
        crosses = box.min_lng > box.max_lng
        assert (east_of_west | west_of_east if crosses else east_of_west & west_of_east).all()

    def test_the_box_of_a_drive_over_the_antimeridian_is_small(self) -> None:
        points = points_of([(0, -16_800_000, 179_990_000, -1), (1, -16_800_000, -179_980_000, -1)])
        summary = summarise(points)
        assert (summary.min_lng, summary.max_lng) == (179.99, -179.98)

    @given(worldwide(), st.randoms())
    def test_points_that_are_shuffled_and_sorted_again_give_the_same(
        self, points: Points, random: Random
    ) -> None:
        order = list(range(len(points)))
        random.shuffle(order)
        shuffled = points.select(np.array(order, np.int64))
        assert summarise(shuffled.select(np.argsort(shuffled.time_us))) == summarise(points)

    def test_moving_time_counts_steps_of_five_kph_or_more(self) -> None:
        points = drive([0] * 5, [0, 4.98, 5, 5, 30])
        assert summarise(points).moving_seconds == 2

    def test_a_step_without_a_recorded_speed_at_both_ends_counts_by_distance_over_time(
        self,
    ) -> None:
        points = drive([0, 10, 20, 20], [None, 0, None, 50])
        assert summarise(points).moving_seconds == 2

    def test_recorded_speeds_say_nothing_about_a_long_gap(self) -> None:
        parked = drive([0, 0], [50, 50], step_s=301)
        driven = drive([0, 3_000], [0, 0], step_s=301)
        assert summarise(parked).moving_seconds == 0
        assert summarise(driven).moving_seconds == 301

    def test_the_average_is_distance_over_moving_seconds(self) -> None:
        points = at_speeds([36] * 101 + [0] * 60)
        summary = summarise(points)
        assert summary.moving_seconds == 101
        assert summary.avg_speed_kph == pytest.approx(summary.distance_meters / 101 * 3.6)

    def test_a_jump_lengthens_the_way_but_not_the_speeds(self) -> None:
        points = drive([0, 10, 100_000, 100_010], [36, 36, 36, 36])
        summary = summarise(points)
        assert summary.distance_meters == pytest.approx(100_010, abs=1)
        assert (summary.max_speed_kph, summary.avg_speed_kph) == (36, 36)

    def test_the_highest_speed_is_derived_where_none_was_recorded(self) -> None:
        assert summarise(drive([0, 20, 30])).max_speed_kph == pytest.approx(72, abs=0.1)

    def test_the_highest_speed_is_not_derived_from_jumps_or_split_seconds(self) -> None:
        assert summarise(drive([0, 10, 100_000])).max_speed_kph == pytest.approx(36, abs=0.1)
        assert summarise(drive([0, 10], step_s=0.5)).max_speed_kph == 0

    def test_a_recorded_speed_is_not_overruled_by_a_derived_one(self) -> None:
        assert summarise(drive([0, 40, 80], [30, None, 30])).max_speed_kph == 30

    def test_a_jump_after_repeated_positions_is_spread_over_them(self) -> None:
        summary = summarise(drive([0, 20, 20, 20, 80, 100]))
        assert summary.max_speed_kph == pytest.approx(72, abs=0.1)
        assert summary.moving_seconds == 5

    def test_figures_are_plain_python_numbers(self) -> None:
        summary = summarise(at_speeds([10, 20, 30]))
        types = {type(getattr(summary, name)) for name in summary.__slots__}
        assert types == {int, float, str, bytes}


class TestHash:
    def test_no_points_hash_to_the_hash_of_nothing(self) -> None:
        assert points_hash(Points.empty()) == hashlib.sha256().digest()

    def test_each_point_is_twenty_big_endian_bytes(self) -> None:
        rows = [
            (1_569_882_600_000_000, -25_436_624, -49_268_554, 274),
            (1_569_882_601_000_000, -25_436_620, -49_268_550, -1),
        ]
        content = b"".join(struct.pack(">qiii", *row) for row in rows)
        assert points_hash(points_of(rows)) == hashlib.sha256(content).digest()

    @given(worldwide().filter(len), st.data())
    def test_any_change_changes_it(self, points: Points, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(points.__slots__))
        changed = getattr(points, name).copy()
        changed[data.draw(st.integers(0, len(points) - 1))] += data.draw(st.sampled_from([-1, 1]))
        assert points_hash(replace(points, **{name: changed})) != points_hash(points)

    @given(worldwide().filter(len))
    def test_a_missing_point_changes_it(self, points: Points) -> None:
        assert points_hash(points.select(np.arange(len(points) - 1))) != points_hash(points)


class TestHarshEvents:
    def test_a_steady_drive_has_none(self) -> None:
        assert driving_events(at_speeds([50] * 100)) == []

    @pytest.mark.parametrize("count", [0, 1])
    def test_fewer_than_two_points_have_none(self, count: int) -> None:
        assert driving_events(drive([0] * count, [0] * count)) == []

    def test_steps_of_one_braking_are_one_event_with_the_strongest_value(self) -> None:
        [event] = driving_events(at_speeds([60, 60, 46.5, 28.5, 13.5, 13.5]))
        assert (event.time_us, event.kind) == (1_000_000, "harsh_brake")
        assert event.value == pytest.approx(-5)

    def test_two_brakings_are_two_events(self) -> None:
        points = at_speeds([80, 60, 60, 40, 40])
        assert [e.time_us for e in events_of(points, "harsh_brake")] == [0, 2_000_000]

    def test_the_thresholds_belong_to_the_events(self) -> None:
        assert events_of(at_speeds([50, 37.4]), "harsh_brake")
        assert not events_of(at_speeds([50, 37.41]), "harsh_brake")
        assert events_of(at_speeds([0, 10.8]), "harsh_acceleration")
        assert not events_of(at_speeds([0, 10.79]), "harsh_acceleration")

    @pytest.mark.parametrize(("step_s", "judged"), [(0.4, 0), (0.5, 1), (5, 1), (5.1, 0)])
    def test_only_steps_of_half_a_second_to_five_are_judged(
        self, step_s: float, judged: int
    ) -> None:
        assert len(driving_events(at_speeds([100, 0], step_s=step_s))) == judged

    def test_a_missing_speed_is_not_a_standstill(self) -> None:
        assert driving_events(drive([0, 14, 28, 42], [50, None, None, 50])) == []

    def test_time_counts_from_the_first_of_repeated_rows(self) -> None:
        meters: list[float] = [0, 14, 14, 14, 45]
        assert driving_events(drive(meters, [50, 50, 50, 50, 30])) == []

    def test_a_car_that_stood_may_start_harshly(self) -> None:
        [event] = driving_events(drive([0] * 8 + [2], [0] * 8 + [14.4]))
        assert event.time_us == 7_000_000
        assert event.value == pytest.approx(4)


class TestHarshEventsWithoutSpeeds:
    def test_a_long_braking_is_found(self) -> None:
        braking = [float(v) for v in range(100, 0, -18)]
        points = without_speeds(at_speeds([100] * 10 + braking + [8, 6, 4]))
        [event] = events_of(points, "harsh_brake")
        assert event.value == pytest.approx(-5, abs=0.2)

    def test_a_repeated_position_and_the_jump_after_it_are_not_harsh(self) -> None:
        meters = [14.0 * i for i in range(40)]
        meters[10:14] = [meters[10]] * 4
        assert driving_events(drive(meters)) == []

    @pytest.mark.parametrize("jump", [30, 300, 100_000])
    def test_a_jump_there_and_back_is_not_harsh(self, jump: float) -> None:
        meters = [14.0 * i for i in range(40)]
        meters[20] += jump
        assert driving_events(drive(meters)) == []

    def test_a_jump_that_lasts_is_not_harsh(self) -> None:
        meters = [14.0 * i + (60 if i > 20 else 0) for i in range(40)]
        assert driving_events(drive(meters)) == []


class TestOverspeed:
    def test_a_stretch_is_one_event_with_its_highest_speed(self) -> None:
        points = at_speeds([120, 128, 131, 135, 128, 134, 126, 120])
        assert driving_events(points) == [DrivingEvent(2_000_000, "overspeed", 135.0)]

    def test_three_kph_below_ends_it(self) -> None:
        points = at_speeds([125, 131, 126.9, 131, 125])
        assert len(events_of(points, "overspeed")) == 2

    def test_the_threshold_itself_is_allowed(self) -> None:
        assert driving_events(at_speeds([130] * 5)) == []

    def test_the_threshold_can_be_set(self) -> None:
        events = driving_events(at_speeds([58, 62, 58]), overspeed_kph=60)
        assert [e.value for e in events if e.kind == "overspeed"] == [62]

    def test_a_long_gap_ends_it(self) -> None:
        points = at_speeds([140, 140, 140])
        apart = replace(points, time_us=points.time_us + np.array([0, 0, 301_000_000]))
        assert [e.time_us for e in events_of(apart, "overspeed")] == [0, 303_000_000]

    def test_it_is_found_without_recorded_speeds(self) -> None:
        points = without_speeds(at_speeds([100.0] * 10 + [140.0] * 10 + [100.0] * 10))
        [event] = events_of(points, "overspeed")
        assert event.value == pytest.approx(140, abs=0.5)

    def test_one_jump_is_not_too_fast(self) -> None:
        meters = [14.0 * i + (60 if i > 20 else 0) for i in range(40)]
        assert events_of(drive(meters), "overspeed") == []


class TestStops:
    def test_two_minutes_of_standing_are_a_stop(self) -> None:
        points = at_speeds([5.0] * 3 + [0.0] * 121 + [5.0] * 3)
        assert driving_events(points) == [DrivingEvent(3_000_000, "stop", 120.0)]

    def test_a_second_less_is_not(self) -> None:
        assert driving_events(at_speeds([5.0] * 3 + [0.0] * 120 + [5.0] * 3)) == []

    def test_parking_without_points_is_a_stop(self) -> None:
        [event] = driving_events(drive([0, 5], [0, 0], step_s=1_800))
        assert (event.kind, event.value) == ("stop", 1_800)

    def test_a_drive_between_two_standstills_is_not_a_stop(self) -> None:
        assert driving_events(drive([0, 900], [0, 0], step_s=200)) == []

    def test_drift_within_twenty_meters_is_a_stop_without_recorded_speeds(self) -> None:
        drift = [12.0 * np.sin(i) for i in range(300)]
        drive_off = [14.0 * i for i in range(60)]
        [event] = driving_events(drive(drift + drive_off))
        assert event.kind == "stop"
        assert event.value == pytest.approx(300, abs=5)

    def test_creeping_is_not_a_stop_without_recorded_speeds(self) -> None:
        assert driving_events(drive([0.6 * i for i in range(600)])) == []

    def test_a_stop_on_the_antimeridian_is_found(self) -> None:
        rows = [(i * 10**6, 0, 179_999_990 if i % 2 else -179_999_990, -1) for i in range(200)]
        [event] = driving_events(points_of(rows))
        assert (event.kind, event.value) == ("stop", 199)


class TestSimplify:
    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_up_to_two_points_are_all_kept(self, count: int) -> None:
        assert list(simplify(drive([0] * count), 5)) == list(range(count))

    def test_points_on_a_straight_line_are_left_out(self) -> None:
        assert list(simplify(drive([0, 10, 20, 30]), 1)) == [0, 3]

    def test_a_corner_is_kept(self) -> None:
        points = points_of([(0, 0, 0, -1), (1, 0, 500, -1), (2, 0, 1000, -1), (3, 500, 1000, -1)])
        assert list(simplify(points, 5)) == [0, 2, 3]

    def test_a_turning_point_beyond_the_end_is_kept(self) -> None:
        assert list(simplify(drive([0, 500, 100]), 5)) == [0, 1, 2]

    def test_the_way_out_of_a_round_trip_is_kept(self) -> None:
        assert list(simplify(drive([0, 250, 500, 250, 0]), 5)) == [0, 2, 4]

    def test_a_straight_line_over_the_antimeridian_is_straight(self) -> None:
        rows = [(i, 0, around(179_999_500 + 100 * i), -1) for i in range(11)]
        assert list(simplify(points_of(rows), 1)) == [0, 10]

    def test_repeated_points_are_left_out(self) -> None:
        assert list(simplify(drive([7] * 50), 1)) == [0, 49]

    @given(journeys())
    def test_a_tolerance_of_zero_keeps_all_points(self, points: Points) -> None:
        assert list(simplify(points, 0)) == list(range(len(points)))

    @given(journeys().filter(len), st.floats(0, 10_000))
    def test_both_ends_are_kept_and_indices_rise(self, points: Points, tolerance: float) -> None:
        kept = simplify(points, tolerance)
        assert (kept[0], kept[-1]) == (0, len(points) - 1)
        assert (np.diff(kept) > 0).all()

    @given(journeys(), st.sampled_from([0.5, 5.0, 100.0, 10_000.0]))
    def test_no_left_out_point_is_further_than_the_tolerance(
        self, points: Points, tolerance: float
    ) -> None:
        kept = simplify(points, tolerance)
        for first, last in pairwise(int(i) for i in kept):
            for index in range(first + 1, last):
                assert meters_from_line(points, index, first, last) <= tolerance + 0.001

    def test_the_tolerance_holds_where_depth_is_bounded(self) -> None:
        points = growing_zigzag(2_000)
        kept = simplify(points, 5)
        left_out = np.setdiff1d(np.arange(2_000), kept)
        ends = np.searchsorted(kept, left_out)
        far = [
            meters_from_line(points, int(i), int(kept[e - 1]), int(kept[e]))
            for i, e in zip(left_out, ends, strict=True)
        ]
        assert 0 < max(far) <= 5.001

    def test_the_worst_shape_takes_no_quadratic_time(self) -> None:
        began = time.perf_counter()
        simplify(growing_zigzag(100_000), 5)
        assert time.perf_counter() - began < 10  # 0.7 s usual; minutes without a bound

    def test_a_route_reads_back_as_the_chosen_points(self) -> None:
        points = points_of([(0, -33_868_801, 151_209_303, -1), (1, 1, -1, -1), (2, 5, -7, -1)])
        route = encode_route(points, np.array([0, 2]))
        assert polyline.decode(route, 6) == [(-33.868801, 151.209303), (0.000005, -0.000007)]


@pytest.fixture(scope="module")
def recorded() -> list[tuple[str, float, Points]]:
    """Name, kilometers as listed and points of each recorded drive."""
    directory = recorded_drives_dir()
    if directory is None:
        pytest.skip("no recorded drives: set DRIVEFLOW_GPS_DATA to their directory")
    drives = recorded_drives(directory)
    return [(file.path.stem, file.km, read_drive(file.path)) for file in drives]


RecordedDrives = list[tuple[str, float, Points]]


class TestRecordedDrives:
    def test_distances_agree_with_the_listed_ones(self, recorded: RecordedDrives) -> None:
        computed = {name: summarise(points).distance_meters / 1000 for name, _, points in recorded}
        assert computed == pytest.approx({name: km for name, km, _ in recorded}, abs=0.1)

    def test_averages_stay_below_the_highest_speed(self, recorded: RecordedDrives) -> None:
        for name, _, points in recorded:
            summary = summarise(points)
            assert 15 < summary.avg_speed_kph < summary.max_speed_kph < 150, name

    def test_a_route_needs_few_points(self, recorded: RecordedDrives) -> None:
        kept = sum(len(simplify(points, 5)) for _, _, points in recorded)
        assert kept < 0.15 * sum(len(points) for _, _, points in recorded)

    def test_derived_speeds_make_no_harsh_event_that_recorded_ones_do_not_show(
        self, recorded: RecordedDrives
    ) -> None:
        for name, _, points in recorded:
            times = [e.time_us for e in driving_events(points) if e.kind.startswith("harsh")]
            for event in driving_events(without_speeds(points)):
                if event.kind.startswith("harsh"):
                    assert any(abs(event.time_us - t) <= 5e6 for t in times), (name, event)

    def test_harsh_events_stay_within_what_tyres_hold(self, recorded: RecordedDrives) -> None:
        for name, _, points in recorded:
            harsh = [e.value for e in driving_events(points) if e.kind.startswith("harsh")]
            assert all(-10 < value < 5 for value in harsh), name

    def test_stops_agree_with_and_without_recorded_speeds(self, recorded: RecordedDrives) -> None:
        for name, _, points in recorded:
            by_place = events_of(without_speeds(points), "stop")
            for stop in events_of(points, "stop"):
                same = [s for s in by_place if abs(s.time_us - stop.time_us) < 45e6]
                assert [abs(s.value - stop.value) < 60 for s in same] == [True], (name, stop)
