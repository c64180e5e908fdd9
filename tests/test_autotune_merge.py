"""Merging has no history: laws of the order, and files that are the same bytes."""

import json
import warnings

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.exchange import Filter, export_file, export_lines, export_packs, import_records
from autotune.layers import RecordWarning
from autotune.merge import merge, merge_all, rank
from autotune.records import RecordError, decode, encode
from autotune.store import Store
from autotune.task import Build

from .autotune_cases import A100, H100, H200, LARGE, NOW, OLD, OTHER, SMALL, key_of, record_of
from .autotune_strategies import records

one_key = records(st.just(key_of()))
currents = st.sampled_from([frozenset(), frozenset({"k1"}), frozenset({"k2"})])


@settings(max_examples=200)
@given(one_key, one_key, one_key, currents)
def test_merge_laws(a, b, c, current):
    def m(x, y):
        return merge(x, y, current)

    assert m(a, a) == a
    assert encode(m(a, b)) == encode(m(b, a))
    assert encode(m(m(a, b), c)) == encode(m(a, m(b, c)))
    assert m(m(a, b), b) == m(a, b)


@settings(max_examples=100)
@given(one_key, one_key, currents)
def test_the_order_is_total(a, b, current):
    # Failures are joined and take no part in the order.
    bodies = [encode(msgspec.structs.replace(record, failures=())) for record in (a, b)]
    ranks = rank(a, current), rank(b, current)
    assert (ranks[0] == ranks[1]) == (bodies[0] == bodies[1])
    assert (ranks[0] < ranks[1]) + (ranks[0] > ranks[1]) == (bodies[0] != bodies[1])


ORDER = [
    ({"best_us": 10.0}, {"validated": False, "build": OLD, "best_us": 1.0}),
    ({"build": OLD}, {"build": NOW, "best_us": 1.0}),  # k1 is current below
    ({"build": Build("k1", "3.10")}, {"build": Build("k1", "3.9"), "best_us": 1.0}),
    # The higher speed-up, not the shorter time.
    ({"best_us": 5.0, "default_us": 20.0}, {"best_us": 4.0, "default_us": 8.0}),
    ({"best_us": 5.0, "default_us": 6.0}, {"best_us": 1.0, "default_us": None}),
    ({"samples": 2}, {"samples": 1, "created": "2026-12-01T00:00:00Z"}),
    ({"created": "2026-12-01T00:00:00Z", "best": LARGE}, {"best": SMALL}),
    ({"best": OTHER}, {"best": SMALL}),  # "direct" < "gemm"
    ({"timing": "b"}, {"timing": "a"}),
]


@pytest.mark.parametrize("better, worse", ORDER, ids=[str(i) for i in range(len(ORDER))])
def test_what_is_better(better, worse):
    a, b = record_of(**better), record_of(**worse)
    assert merge(a, b, frozenset({"k1"})) == merge(b, a, frozenset({"k1"})) == a


def test_kernels_that_nobody_knows_do_not_count():
    old, new = record_of(build=Build("k1", "3.9")), record_of(best_us=1.0)
    assert merge(old, new) == new
    assert merge(old, new, frozenset({"k1"})) == old


def test_failures_are_joined():
    def failed(**parts):
        tree = json.loads(encode(record_of()))
        failure = {"candidate": tree["best"], "kind": "hang", "build": tree["build"]}
        tree["failures"] = [failure | parts]
        return decode(json.dumps(tree).encode())

    both = merge(failed(), failed(environment={"driver": "1"}))
    assert [dict(f.environment) for f in both.failures] == [{}, {"driver": "1"}]
    assert merge(failed(), failed(detail="late")).failures == failed(detail="late").failures


def test_two_keys_are_not_merged():
    with pytest.raises(ValueError, match="merge: expected two records of one key"):
        merge(record_of(), record_of(key_of(tf32=1)))


@given(st.lists(records(st.sampled_from([key_of(n) for n in (1, 2, 3)])), max_size=6), st.randoms())
def test_exports_are_the_same_bytes(found, random):
    shuffled = list(found)
    random.shuffle(shuffled)
    lines = list(export_lines(found))
    assert lines == list(export_lines(shuffled))
    assert lines == list(export_lines(map(decode, lines)))
    assert {decode(line).key.key().digest for line in lines} == set(merge_all(found))


def several():
    """Records of three devices and two ops."""
    return [
        record_of(key_of(n, gpu=gpu, op=op), best)
        for n in (1, 2)
        for gpu, op, best in [(H200, "conv", SMALL), (H100, "conv", LARGE), (A100, "pool", OTHER)]
    ]


def test_filters():
    def chosen(**patterns):
        lines = export_lines(several(), Filter(**patterns))
        return [(r.key.op, r.key.gpu.arch, r.best.variant) for r in map(decode, lines)]

    conv, pool = ("conv", "sm_90", "gemm"), ("pool", "sm_80", "direct")
    assert chosen() == [pool] * 2 + [conv] * 4
    assert chosen(op="CON*") == [conv] * 4
    assert chosen(gpu="*h200*") == [conv] * 2
    assert chosen(gpu="sm_80") == chosen(variant="direct") == [pool] * 2
    assert chosen(op="pool", gpu="sm_90") == []


def test_stores_are_exchanged(tmp_path):
    first, second = (Store(tmp_path / name, environ={}) for name in "ab")
    for record in several():
        first.put(record)
    file = tmp_path / "all.jsonl"
    assert export_file(file, (e.record for e in first.entries("user"))) == 6
    assert len(import_records(second, file).added) == 6
    again = tmp_path / "again.jsonl"
    export_file(again, (e.record for e in second.entries("user")))
    assert again.read_bytes() == file.read_bytes()
    assert len(import_records(second, file).kept) == 6

    better, worse = record_of(best_us=1.0), record_of(key_of(2), best_us=9.0)
    file.write_bytes(encode(better) + b"\n" + encode(worse) + b"\nnonsense\n")
    second.put(record_of())
    done = import_records(second, file)
    assert done.added == [key_of().digest] or done.replaced == [key_of().digest]
    assert done.kept == [key_of(2).digest]
    assert len(done.refused) == 1 and "line 3 is not used" in done.refused[0]
    found = second.get(key_of())
    assert found is not None and found.record == better
    # A directory with a tree is imported like a file.
    third = Store(tmp_path / "c", environ={})
    beside = found.path.with_suffix(".trials.jsonl")
    for path in (beside, beside.with_name(f".{found.path.name}.1.abc.tmp")):
        path.write_text("not a record")
    done = import_records(third, tmp_path / "b")
    assert len(done.added) == 7 and not done.refused


def test_an_import_that_cannot_be_written_says_so(tmp_path):
    file = tmp_path / "one.jsonl"
    export_file(file, [record_of()])
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        import_records(Store(tmp_path / "file" / "below", environ={}), file)
    with pytest.raises(FileNotFoundError):
        import_records(Store(tmp_path / "a", environ={}), tmp_path / "missing.jsonl")


def test_packs_are_read_as_shipped(tmp_path):
    paths = export_packs(tmp_path, several())
    assert [path.name for path in paths] == [
        "cuda-sm_80-nvidia-a100-108.pool.jsonl",
        "cuda-sm_90-nvidia-h100-pcie-114.conv.jsonl",
        "cuda-sm_90-nvidia-h200-132.conv.jsonl",
    ]
    # Only what a key needs is parsed: its op and architecture.
    paths[0].write_text("nonsense")
    store = Store(tmp_path / "user", shipped=tmp_path, environ={})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = store.get(key_of(1))
        assert found is not None and found.layer == "shipped" and found.candidate == SMALL
        assert {e.key.gpu for e in store.family(key_of(1))} == {H200, H100}
        assert store.get(key_of(77)) is None
    with pytest.warns(RecordWarning, match="a100-108.pool.jsonl: line 1 is not used"):
        assert store.get(key_of(1, gpu=A100, op="pool")) is None


def test_too_long_a_record_is_refused():
    record = record_of(environment={f"n{i}": "x" * 2000 for i in range(600)})
    with pytest.raises(RecordError, match="more than the 1048576"):
        encode(record)
