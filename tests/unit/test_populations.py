"""The `--populations` grammar: what it means, and that every unusable text is refused in one line that names the numbers."""

from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from common.parallel.populations import default_populations, largest_remainder, parse_populations

SPECIES, OPTIMIZERS = ("gwo", "woa", "pso"), ("sgd", "sam", "asam")


def parse(text, ranks):
    return [(s.species, s.workers, s.optimizer) for s in parse_populations(text, ranks, "asam", SPECIES, OPTIMIZERS)]


def slow_apportionment(shares, seats):
    """Hamilton's method in exact fractions, then the largest give to those without a seat."""
    quotas = [Fraction(seats) * share / sum(shares) for share in shares]
    counts = [floor(q) for q in quotas]
    order = sorted(range(len(shares)), key=lambda i: (counts[i] - quotas[i], i))  # largest remainder, then first listed
    for i in order[: seats - sum(counts)]:
        counts[i] += 1
    while min(counts) == 0:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


@st.composite
def percentages(draw):
    """Whole percentages that add up to 100."""
    cuts = sorted(draw(st.sets(st.integers(1, 99), max_size=5)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True)]


@given(percentages(), st.integers(0, 64))
def test_percentages_are_settled_by_the_largest_remainder(shares, more):
    seats = len(shares) + more
    counts = largest_remainder([float(s) for s in shares], seats)
    assert counts == slow_apportionment([Fraction(s) for s in shares], seats)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=8), st.integers(0, 64))
def test_counts_are_within_one_of_their_quota_where_nobody_had_to_be_lifted_to_one(shares, more):
    seats = len(shares) + more
    counts = largest_remainder(shares, seats)
    assert sum(counts) == seats
    assert min(counts) >= 1
    quotas = [seats * s / sum(shares) for s in shares]
    if min(quotas) >= 1:
        assert all(abs(c - q) < 1 + 1e-9 for c, q in zip(counts, quotas, strict=True))


@given(st.integers(1, 6), st.integers(0, 20))
def test_bare_names_share_equally_and_the_first_listed_take_what_is_left(n, more):
    ranks = n + more
    sizes = [m for _, m, _ in parse(",".join(["gwo"] * n), ranks)]
    assert sizes == [ranks // n + (k < ranks % n) for k in range(n)]


@pytest.mark.parametrize(
    ("text", "ranks", "expected"),
    [
        ("gwo:4,woa:4", 8, [("gwo", 4, "asam"), ("woa", 4, "asam")]),
        ("gwo:50%,woa:50%", 5, [("gwo", 3, "asam"), ("woa", 2, "asam")]),
        ("gwo:50%:sgd,woa:50%", 4, [("gwo", 2, "sgd"), ("woa", 2, "asam")]),
        ("gwo:4:sam", 4, [("gwo", 4, "sam")]),
        ("gwo:sam,woa", 2, [("gwo", 1, "sam"), ("woa", 1, "asam")]),
        (" gwo : 1 : sam , woa:2 ", 3, [("gwo", 1, "sam"), ("woa", 2, "asam")]),
        ("gwo:33%,woa:33%,pso:33%", 6, [("gwo", 2, "asam"), ("woa", 2, "asam"), ("pso", 2, "asam")]),
        ("gwo:99%,woa:1%", 2, [("gwo", 1, "asam"), ("woa", 1, "asam")]),
        ("gwo:99.5%,woa:0.5%", 8, [("gwo", 7, "asam"), ("woa", 1, "asam")]),
        ("gwo,gwo", 2, [("gwo", 1, "asam"), ("gwo", 1, "asam")]),
        ("gwo:29%,woa:9%,pso:62%", 5, [("gwo", 2, "asam"), ("woa", 1, "asam"), ("pso", 2, "asam")]),  # 0.45 twice: first wins
    ],
)
def test_the_grammar_means_what_it_says(text, ranks, expected):
    assert parse(text, ranks) == expected


@pytest.mark.parametrize(
    ("text", "ranks", "names"),
    [
        ("wolf:4", 4, ["'wolf'", "gwo, woa, pso"]),
        ("gwo:4:adam", 4, ["'adam'", "sgd, sam, asam"]),
        ("gwo:four", 4, ["four"]),
        ("gwo,woa", 1, ["2 populations need at least 2 ranks", "1"]),
        ("gwo:1,woa:1,pso:1", 2, ["3 populations need at least 3 ranks", "2"]),
        ("gwo:4,woa:4", 6, ["8 workers, but there are 6 ranks"]),
        ("gwo:1,woa:1", 16, ["2 workers, but there are 16 ranks"]),
        ("gwo:0,woa:4", 4, ["0 workers"]),
        ("gwo:-1,woa:5", 4, ["-1"]),
        ("gwo:4.5,woa:3.5", 8, ["gwo:4"]),
        ("gwo:1e1", 10, ["gwo:1e1"]),
        ("gwo:1x", 1, ["'gwo:1x'"]),
        ("gwo:4,woa:50%", 8, ["gwo:4,woa:50%"]),
        ("gwo:4,woa", 8, ["gwo:4,woa"]),
        ("gwo:50%,woa", 8, ["gwo:50%,woa"]),
        ("gwo:50%,woa:40%", 8, ["90"]),
        ("gwo:80%,woa:40%", 8, ["120"]),
        ("gwo:150%,woa:-50%", 8, ["gwo:150%,woa:-50%"]),
        ("gwo:0%,woa:100%", 8, ["gwo:0%"]),
        ("gwo:5x%,woa:50%", 8, ["gwo:5x%"]),
        ("gwo:4:sam:8", 4, ["gwo:4:sam:8"]),
        ("gwo:4:8", 8, ["gwo:4:8"]),
        ("gwo:sam:sgd", 4, ["gwo:sam:sgd"]),
        ("gwo::sam", 4, ["gwo::sam"]),
        ("gwo:", 4, ["gwo:"]),
        (":4", 4, [":4"]),
        ("gwo,", 4, ["cannot read"]),
        ("", 4, ["cannot read"]),
        (",", 4, ["cannot read"]),
        ("gwo;woa", 4, ["gwo;woa"]),
    ],
)
def test_an_unusable_text_is_refused_in_one_line_that_names_what_is_wrong(text, ranks, names):
    with pytest.raises(UsageError) as refusal:
        parse(text, ranks)
    message = str(refusal.value)
    assert "\n" not in message
    for name in names:
        assert name in message


@given(st.text(alphabet="gwoasm:,%0123456789-+. ", max_size=14), st.integers(1, 9))
def test_any_text_is_either_refused_or_covers_the_ranks(text, ranks):
    try:
        populations = parse(text, ranks)
    except UsageError:
        return
    assert sum(m for _, m, _ in populations) == ranks
    assert min(m for _, m, _ in populations) >= 1


@given(st.integers(1, 40))
def test_the_default_works_for_any_number_of_ranks(ranks):
    populations = parse(default_populations(ranks), ranks)
    assert [s for s, _, _ in populations] == ["gwo", "woa"][:ranks]
