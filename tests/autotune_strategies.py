"""Strategies for the tests of autotune."""

from hypothesis import strategies as st

from autotune import Gpu, Key
from autotune.parts import BuildRecord, CandidateRecord, FailureRecord
from autotune.task import Build, FailureKind

from .autotune_cases import A100, H100, H200, LARGE, NOW, OLD, OTHER, SMALL, record_of

gpus = st.sampled_from([H200, H100, A100])
candidates = st.sampled_from([SMALL, LARGE, OTHER])
builds = st.sampled_from([NOW, OLD, Build("k1", "3.9"), None])
# What a key may hold, and what a digest must tell apart.
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
named = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
keys = st.builds(
    Key.of,
    named,
    named,
    st.dictionaries(named, values, max_size=4),
    st.dictionaries(named, st.integers(0, 2**40), max_size=3),
    st.builds(Gpu, named, named, named, st.integers(0, 200)),
)
failures = st.lists(
    st.builds(
        FailureRecord,
        candidate=candidates.map(CandidateRecord.of),
        kind=st.sampled_from(FailureKind),
        detail=st.sampled_from(["", "spills", "died"]),
        build=st.sampled_from([NOW, OLD]).map(BuildRecord.of),
        environment=st.sampled_from([{}, {"driver": "1"}, {"driver": "2"}]),
    ),
    max_size=5,
).map(tuple)
times = st.none() | st.sampled_from([0.5, 1.0, 2.0, 4.0, 8.0])


def records(of_keys):
    """Records of keys drawn from a strategy, with few enough values that they often tie."""
    return st.builds(
        record_of,
        of_keys,
        candidates,
        builds,
        best_us=times,
        default_us=times,
        samples=st.integers(0, 2),
        validated=st.booleans(),
        failures=failures,
        noise=st.sampled_from([0.0, 0.02]),
        environment=st.sampled_from([{}, {"driver": "1", "commit": "é"}]),
        created=st.sampled_from(["2026-11-21T10:00:00Z", "2026-11-22T10:00:00Z"]),
    )
