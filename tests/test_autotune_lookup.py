"""Look-ups: the nearest legal record, and never a worse one because there are more."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.layers import Entry
from autotune.lookup import NoRecord, Tier, distance, explain, look_up
from autotune.store import LAYERS, Store

from .autotune_cases import A100, H100, H200, LARGE, NOW, OLD, OTHER, SMALL, key_of, record_of
from .autotune_strategies import candidates


class Memory:
    """Records in layers, without files."""

    def __init__(self, *entries):
        self._entries = sorted(entries, key=lambda e: LAYERS.index(e.layer))

    def exact(self, key):
        return [e for e in self._entries if e.key.digest == key.digest]

    def family(self, key):
        return [e for e in self._entries if e.key.family == key.family]

    def entries(self):
        return self._entries


def entry(key, best=SMALL, build=NOW, layer="user"):
    return Entry(record_of(key, best, build), layer, Path(f"/{layer}/{key.digest[:4]}.json"))


def find(store, key=None, illegal=(), **more):
    return look_up(store, key or key_of(), lambda _: NOW, lambda c: c not in illegal, **more)


def tier_of(found):
    return None if found is None else found.tier


def test_tiers_in_order():
    stale = entry(key_of(), LARGE, OLD, "shipped")
    levels = [
        entry(key_of(gpu=H100), OTHER),
        entry(key_of(n=32), LARGE),
        stale,
        entry(key_of(), SMALL),
    ]
    seen = [find(Memory(*levels[:n])) for n in range(5)]
    assert [tier_of(f) for f in seen] == [None, *sorted(Tier, reverse=True)]
    assert [f and f.candidate for f in seen] == [None, OTHER, LARGE, LARGE, SMALL]
    assert [f and f.distance for f in seen] == [None, 0.0, 2.0, 0.0, 0.0]
    assert [f and f.differences for f in seen[1:]] == [
        {"gpu": (H200, H100)},
        {"N": (8, 32)},
        {"kernels": ("k2", "k1"), "triton": ("3.9", "3.6")},
        {},
    ]
    assert seen[3] and seen[3].layer == "shipped" and seen[3].path == stale.path


def test_other_architectures_and_fields_are_never_used():
    others = [key_of(gpu=A100), key_of(dtype="float32"), key_of(op="pool"), key_of(tf32=1)]
    assert find(Memory(*map(entry, others))) is None


def test_illegal_records_fall_through():
    store = Memory(
        entry(key_of(), LARGE, layer="user"),
        entry(key_of(), SMALL, layer="shipped"),
        entry(key_of(n=16), OTHER),
    )
    found = [find(store, illegal=out) for out in [(), (LARGE,), (LARGE, SMALL)]]
    assert [(f and f.candidate, tier_of(f)) for f in found] == [
        (LARGE, Tier.EXACT),
        (SMALL, Tier.EXACT),
        (OTHER, Tier.NEAREST),
    ]
    assert find(store, illegal=(LARGE, SMALL, OTHER)) is None


def test_layers_in_order_within_a_tier():
    every = [entry(key_of(), SMALL, layer=layer) for layer in LAYERS]
    assert [(find(Memory(*every[n:])) or pytest.fail()).layer for n in range(4)] == list(LAYERS)
    # A current record of a later layer beats a stale one of an earlier layer ...
    found = find(Memory(entry(key_of(), LARGE, OLD, "user"), entry(key_of(), layer="shipped")))
    assert found is not None and (found.tier, found.layer) == (Tier.EXACT, "shipped")
    # ... but an override is meant as it stands.
    for build in (OLD, None):
        found = find(Memory(entry(key_of(), LARGE, build, "override"), entry(key_of())))
        assert found is not None and (found.tier, found.layer) == (Tier.EXACT, "override")
    assert tier_of(find(Memory(entry(key_of(), LARGE, None)))) == Tier.STALE


def test_distance_is_in_weighted_doublings():
    assert distance(key_of(8, 64), key_of(32, 32), {}) == 3.0
    assert distance(key_of(8, 64), key_of(32, 32), {"N": 0.25, "C": 2.0}) == 2.5
    assert distance(key_of(0, 64), key_of(1, 64), {}) == 1.0
    store = Memory(entry(key_of(n=64), SMALL), entry(key_of(c=256), LARGE))
    weighted = find(store, weights={"N": 1.0, "C": 2.0}), find(store, weights={"N": 2.0})
    assert [f and f.candidate for f in weighted] == [SMALL, LARGE]
    # The limit is met by a distance as long as itself.
    far = Memory(entry(key_of(n=128)))
    assert find(far) is not None and find(far, furthest=3.9) is None
    assert find(Memory(entry(key_of(n=129)))) is None


def test_ties_are_broken_the_same_everywhere():
    pair = [entry(key_of(n=4), SMALL), entry(key_of(n=16), LARGE)]
    first = min(pair, key=lambda e: e.key.digest)
    for store in (Memory(*pair), Memory(*pair[::-1])):
        found = find(store)
        assert found is not None and found.candidate == first.candidate
    layers = [entry(e.key, e.candidate, layer="shipped" if e is first else "user") for e in pair]
    found = find(Memory(*layers))
    assert found is not None and (found.layer, found.candidate != first.candidate) == ("user", True)
    # Of sibling devices the one of nearer size.
    big, small = (H100.__class__("cuda", "sm_90", "x", n) for n in (144, 60))
    found = find(Memory(entry(key_of(gpu=small), SMALL), entry(key_of(gpu=big), LARGE)))
    assert found is not None and found.candidate == LARGE


def test_strict_takes_nothing_less_and_names_the_closest():
    assert tier_of(find(Memory(entry(key_of())), strict=True)) == Tier.EXACT

    def message(*entries, illegal=()):
        with pytest.raises(NoRecord) as raised:
            find(Memory(*entries), illegal=illegal, strict=True)
        return re.sub(r"/[0-9a-f]{4}\.json", "/X", str(raised.value))

    start = "record: expected one for conv C=64 N=8 on NVIDIA H200, got none; the closest, "
    end = "; tune it, or allow the fallbacks"
    assert message(entry(key_of(n=4096))) == f"{start}/user/X, differs in N (8, not 4096){end}"
    assert message(entry(key_of(), build=OLD)) == (
        f"{start}/user/X, differs in kernels (k2, not k1), triton (3.9, not 3.6){end}"
    )
    assert message(entry(key_of(dtype="float32")), entry(key_of(c=1, n=1, gpu=A100))) == (
        f"{start}/user/X, differs in dtype (float16, not float32){end}"
    )
    assert message(entry(key_of(), LARGE), illegal=(LARGE,)) == (
        f"{start}/user/X, is for the same problem; {LARGE} is not legal for this problem{end}"
    )
    assert "nor any of conv" in message(entry(key_of(op="pool")))


def test_explanations_cover_every_record():
    store = Memory(
        entry(key_of(), LARGE),
        entry(key_of(), SMALL, OLD, "shipped"),
        entry(key_of(n=16), SMALL),
        entry(key_of(n=4096), SMALL),
        entry(key_of(gpu=H100), SMALL),
    )
    listed = explain(store, key_of(), lambda _: NOW, lambda c: c != LARGE)
    assert [(c.found.tier, c.reason) for c in listed] == [
        (Tier.EXACT, f"{LARGE} is not legal for this problem"),
        (Tier.STALE, ""),
        (Tier.NEAREST, "comes after the one that is used"),
        (Tier.NEAREST, "9.0 doublings of sizes away, more than 4"),
        (Tier.SIBLING, "comes after the one that is used"),
    ]
    used = find(store, illegal=(LARGE,))
    assert [c.found for c in listed if not c.reason] == [used]


drawn = st.lists(
    st.builds(
        entry,
        st.builds(
            key_of,
            st.sampled_from([1, 8, 9, 1000]),
            st.sampled_from([64, 128]),
            st.sampled_from([H200, H100, A100]),
            dtype=st.sampled_from(["float16", "float32"]),
        ),
        candidates,
        st.sampled_from([NOW, OLD, None]),
        st.sampled_from(LAYERS),
    ),
    max_size=8,
    # One record a key and layer, as in a store.
    unique_by=lambda e: (e.key.digest, e.layer),
)


@settings(max_examples=200)
@given(drawn, st.sets(candidates, max_size=2), st.data())
def test_more_records_never_make_it_worse(entries, illegal, data):
    worst = len(Tier)
    part = entries[: data.draw(st.integers(0, len(entries)))]
    few, many = (find(Memory(*some), illegal=illegal) for some in (part, entries))
    ranks = [worst if f is None else f.tier for f in (few, many)]
    assert ranks[1] <= ranks[0]
    if few is not None and many is not None and ranks[0] == ranks[1]:
        assert many.distance <= few.distance
    assert find(Memory(*entries[::-1]), illegal=illegal) == many
    if many is not None:
        assert many.candidate not in illegal
        usable = [
            c
            for c in explain(Memory(*entries), key_of(), lambda _: NOW, lambda c: c not in illegal)
            if c.reason in ("", "comes after the one that is used")
        ]
        assert many.tier == min(c.found.tier for c in usable)
        assert many == usable[0].found


def test_a_store_is_looked_up(tmp_path):
    store = Store(tmp_path, environ={})
    seen = []
    for record in [
        record_of(key_of(gpu=H100)),
        record_of(key_of(n=16)),
        record_of(build=OLD),
        record_of(),
    ]:
        store.put(record)
        seen.append(find(store))
    assert [tier_of(f) for f in seen] == sorted(Tier, reverse=True)
    assert all(f is not None and f.path is not None and f.path.exists() for f in seen)
