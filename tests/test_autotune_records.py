"""Records: what is written can be read, and whatever else is refused with its reason."""

import json
import math
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import Gpu, Key
from autotune.parts import MOST_FAILURES, FailureRecord, KeyRecord
from autotune.records import (
    LIMIT,
    SCHEMA_FILE,
    Record,
    RecordError,
    decode,
    encode,
    json_schema,
)
from autotune.task import Failure, FailureKind, Outcome

from .autotune_cases import H200, LARGE, NOW, OLD, OTHER, SMALL, key_of, record_of
from .autotune_strategies import keys, records


def changed(**parts):
    """The JSON of a record with parts replaced; dots in names are levels."""
    tree = json.loads(encode(record_of()))
    for name, value in parts.items():
        *path, last = name.split("__")
        node = tree
        for step in path:
            node = node[step]
        node[last] = value
    return json.dumps(tree).encode()


@given(records(keys))
def test_what_is_written_is_read(record):
    again = decode(encode(record))
    assert again == record and encode(again) == encode(record)
    key = record.key.key()
    assert KeyRecord.of(key).key().digest == key.digest == again.key.key().digest
    assert decode(encode(record), key.digest, key.family) == record


def test_an_outcome_is_kept():
    outcome = Outcome(
        best=LARGE,
        default=SMALL,
        times={LARGE: 5.0, SMALL: 10.0, OTHER: 20.0},
        samples={LARGE: 30, SMALL: 20},
        failures={OTHER: Failure(FailureKind.HANG, "120 s"), SMALL: Failure(FailureKind.ILLEGAL)},
        ties=(SMALL,),
        noise=0.02,
    )
    record = Record.of(
        key_of(), outcome, lambda _: NOW, "l2-cold,events", {"driver": "575", "commit": "abc"}
    )
    assert record.key.key() == key_of() and record.validated
    assert record.build and record.build.build() == NOW
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", record.created)
    assert record.speedup == outcome.speedup == 2.0
    back = record.outcome()
    assert (back.best, back.default, back.ties, back.noise) == (LARGE, SMALL, (SMALL,), 0.02)
    assert back.times == {LARGE: 5.0, SMALL: 10.0} and back.samples == {LARGE: 30}
    # What the rules refuse needs no memory.
    assert back.failures == {OTHER: Failure(FailureKind.HANG, "120 s")}


def test_failures_expire():
    failures = {OTHER: Failure(FailureKind.CRASH, "x"), SMALL: Failure(FailureKind.MEMORY)}
    outcome = Outcome(LARGE, LARGE, failures=failures)
    env = {"driver": "575", "commit": "abc"}
    record = Record.of(key_of(), outcome, lambda _: NOW, "", env)
    crashed = {OTHER: failures[OTHER]}
    assert record.remembered(lambda _: NOW, env) == crashed
    assert record.remembered(lambda _: NOW, env | {"commit": "def"}) == crashed
    assert record.remembered(lambda _: NOW, env | {"driver": "580"}) == {}
    assert record.remembered(lambda _: OLD, env) == {}


def test_a_record_by_hand_needs_a_key_and_a_candidate():
    tree = json.loads(encode(record_of()))
    record = decode(json.dumps({name: tree[name] for name in ("schema", "key", "best")}).encode())
    assert record.best_us is None and record.build is None and not record.validated
    assert record.speedup == 1.0 and record.outcome().times == {}


REFUSED = [
    (b"", "empty"),
    (b" \n", "empty"),
    (encode(record_of())[:-7], "truncated"),
    (b"\x80\x04\x95", "malformed"),
    (b"[1]", "Expected `object`"),
    (b"{}", "missing required field"),
    (changed(schema=2), r"written by a newer version \(schema 2, this reads 1\)"),
    (changed(schema=2, key="otherwise"), r"written by a newer version \(schema 2"),
    (changed(schema=0), "schema 0 never was"),
    (changed(surprise=1), "unknown field `surprise`"),
    (changed(key__gpu__colour="red"), "unknown field `colour`"),
    (changed(best_us=math.nan), "malformed"),
    (changed(best_us=-1.0), "`float` > 0.0"),
    (changed(best_us=0), "`float` > 0.0"),
    (changed(best_us=1e300), "<= 1000000000000"),
    (changed(best_us="5"), "got `str`"),
    (changed(best__num_warps=0), "`int` >= 1"),
    (changed(best__num_warps=True), "got `bool`"),
    (changed(best__constants={"BLOCK": 2**63}), r"\$.best.constants"),
    (changed(best__constants={"BLOCK": 1.5}), "got `float`"),
    (changed(best__variant=7), "got `int`"),
    (changed(best__variant="a\n"), "matching regex"),
    (changed(best__variant=""), "length >= 1"),
    (changed(key__op="x" * 201), "length <= 200"),
    (changed(key__sizes__N=-1), "`int` >= 0"),
    (changed(key__sizes={"": 1}), "length >= 1"),
    (changed(key__fields__stride={"a": 1}), "Expected"),
    (changed(key__fields__stride=[{"a": 1}]), "fields.stride: expected no dict"),
    (changed(key__fields__stride=[[[[[[[[[[1]]]]]]]]]]), "more than 8 deep"),
    (changed(key__fields__stride=[10**30]), "fields.stride"),
    (changed(created="yesterday"), "matching regex"),
    (changed(created="2026-11-21T10:00:00Z\n"), "length <= 20"),
    (changed(samples=-1), "`int` >= 0"),
    (changed(environment={"driver": 5}), "got `int`"),
    (changed(timing="x" * LIMIT), "more than the 1048576"),
    (b'{"key": {"fields": {"a": ' + b"[" * 100_000, "recursion"),
    (encode(record_of()).replace(b"float16", b"\xff\xfe"), "utf-8|UTF-8"),
]


@pytest.mark.parametrize("data, reason", REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refusals_say_why(data, reason):
    with pytest.raises(RecordError, match=reason):
        decode(data)


def test_a_record_under_another_name_is_refused():
    data, key = encode(record_of()), key_of()
    with pytest.raises(RecordError, match=f"its own is {key.digest}"):
        decode(data, key_of(n=9).digest)
    with pytest.raises(RecordError, match="named for another key"):
        decode(data, key.digest, key_of(dtype="float32").family)


@given(st.binary(max_size=200) | st.text().map(str.encode))
def test_bytes_at_random_are_refused(data):
    with pytest.raises(RecordError):
        decode(data)


@given(st.data())
def test_damage_is_refused_or_harmless(data):
    whole = encode(record_of())
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[at] = data.draw(st.integers(0, 255))
    try:
        again = decode(bytes(damaged), key_of().digest)
    except RecordError:
        return
    assert again.key.key().digest == key_of().digest and decode(encode(again)) == again


def test_not_a_number_is_never_written():
    for name in ("best_us", "default_us", "noise"):
        with pytest.raises(ValueError, match=f"{name}: expected a finite number, got nan"):
            record_of(**{name: math.nan})
    with pytest.raises(RecordError, match="best_us"):
        Record.of(key_of(), Outcome(SMALL, SMALL, times={SMALL: math.inf}), lambda _: NOW, "", {})
    with pytest.raises(RecordError, match=r"fields\.alpha"):
        Record.of(key_of(alpha=math.nan), Outcome(SMALL, SMALL), lambda _: NOW, "", {})


def test_what_could_not_be_read_is_not_made():
    nameless = SMALL._replace(variant="")
    with pytest.raises(RecordError, match="length >= 1"):
        Record.of(key_of(), Outcome(nameless, SMALL), lambda _: NOW, "", {})
    with pytest.raises(RecordError, match="not JSON"):
        Record.of(key_of(op="\udcff"), Outcome(SMALL, SMALL), lambda _: NOW, "", {})


def test_failures_are_bounded_and_printable():
    many = {SMALL._replace(variant=f"v{i:03}"): Failure(FailureKind.CRASH) for i in range(200)}
    many[SMALL] = Failure(FailureKind.ERROR, "\udcff" + "x" * 9_999)
    record = Record.of(key_of(), Outcome(SMALL, SMALL, failures=many), lambda _: NOW, "", {})
    assert len(record.failures) == MOST_FAILURES
    assert record.failures[0] == msgspec.structs.replace(
        record.failures[0], kind=FailureKind.ERROR, detail="?" + "x" * 499
    )
    assert isinstance(record.failures[1], FailureRecord)


def test_published_schema():
    assert SCHEMA_FILE.read_bytes() == json_schema(), "run `python -m autotune.records`"
    schema = json.loads(json_schema())
    assert schema["$ref"] == "#/$defs/Record"
    assert schema["$defs"]["Record"]["additionalProperties"] is False
    assert schema["$defs"]["Record"]["required"] == ["key", "best"]


def test_each_part_of_a_key_counts():
    base = key_of()
    others = [
        Key.of("shop", base.op, dict(base.fields), dict(base.sizes), H200),
        key_of(op="pool"),
        key_of(n=9),
        key_of(c=65),
        key_of(dtype="bfloat16"),
        key_of(stride=(1, 2)),
        key_of(stride=((1, 1),)),
        key_of(alpha=1),
        key_of(tf32=1),
        key_of(extra=None),
        key_of(gpu=Gpu("hip", "sm_90", "NVIDIA H200", 132)),
        key_of(gpu=Gpu("cuda", "sm_90a", "NVIDIA H200", 132)),
        key_of(gpu=Gpu("cuda", "sm_90", "NVIDIA H20", 132)),
        key_of(gpu=Gpu("cuda", "sm_90", "NVIDIA H200", 131)),
    ]
    assert len({key.digest for key in (base, *others)}) == 1 + len(others)
    assert key_of(stride=[1, 1]).digest == base.digest
    # Sizes and device models make no family.
    near = {key_of(n=9), key_of(c=65), key_of(gpu=others[-1].gpu), key_of(gpu=others[-2].gpu)}
    assert {key for key in others if key.family == base.family} == near


@given(keys, keys)
def test_digests_tell_keys_apart(a, b):
    same = encode(record_of(a)) == encode(record_of(b))
    assert (a.digest == b.digest) == same
