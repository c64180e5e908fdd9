"""A config is a value."""

from autotune import Candidate, Config


def test_config_is_a_value():
    a, b = Config.of(8, 3, BLOCK_M=128, BLOCK_K=64), Config.of(8, 3, BLOCK_K=64, BLOCK_M=128)
    assert a == b and hash(a) == hash(b)
    assert a["BLOCK_M"] == 128
    assert str(a) == "BLOCK_K=64, BLOCK_M=128, num_warps=8, num_stages=3"


def test_candidates_have_one_order():
    small, large = Config.of(4, 2, BLOCK=16), Config.of(4, 2, BLOCK=32)
    found = sorted([Candidate("b", small), Candidate("a", large), Candidate("a", small)])
    assert found == [("a", small), ("a", large), ("b", small)]
    assert str(found[0]) == "a: BLOCK=16, num_warps=4, num_stages=2"
