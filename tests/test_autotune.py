"""The table of configs: what is stored is used while it is legal, else the default."""

from autotune import Config, ConfigTable


def test_config_is_a_value():
    a, b = Config.of(8, 3, BLOCK_M=128, BLOCK_K=64), Config.of(8, 3, BLOCK_K=64, BLOCK_M=128)
    assert a == b and hash(a) == hash(b)
    assert a["BLOCK_M"] == 128
    assert str(a) == "BLOCK_K=64, BLOCK_M=128, num_warps=8, num_stages=3"


def test_table_prefers_its_own_config_while_it_is_legal():
    table, default, better = ConfigTable(), Config.of(4, 2, BLOCK=16), Config.of(8, 2, BLOCK=32)
    choose = lambda legal=True: table.choose("key", lambda: default, lambda _: legal)  # noqa: E731
    assert (choose().config, choose().source) == (default, "default")
    table.put("key", better)
    assert (choose().config, choose().source) == (better, "table")
    assert (choose(legal=False).config, choose(legal=False).source) == (default, "default")
    table.clear()
    assert choose().config == default
