"""Tuning on a real GPU: end to end, twice, with the figures of `benchmarks.tuning`."""

import json

import pytest

from benchmarks import tuning


def pair(agree=True, first=10.0, second=10.0, default=12.0):
    return tuning.Pair("p", "a", "b", agree, first, second, default)


def test_the_summary_is_of_both_runs():
    found = tuning.summary([pair(), pair(agree=False, first=11.0, default=20.0)])
    assert found["problems"] == 2 and found["agreement"] == 0.5
    assert found["mean regret"] == pytest.approx(0.1 / 4)
    assert found["largest regret"] == pytest.approx(0.1)
    assert found["speed-up over the default"] == pytest.approx((1.2 * 2.0) ** 0.5)


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    def none(target=None):
        raise RuntimeError("this machine has no GPU that torch sees")

    monkeypatch.setattr(tuning.PROVIDER, "gpu", none)
    assert tuning.main([]) == 2
    assert "no GPU" in capsys.readouterr().err


def test_the_first_calls_of_the_suite():
    gpu = tuning.PROVIDER.gpu("sm_90")
    keys = tuning.problems(14, gpu)
    assert len(keys) == 84 and {key.gpu for key in keys} == {gpu}
    assert {dict(key.fields)["input"] for key in keys} == {"contiguous", "channels_last"}


@pytest.mark.gpu
def test_two_runs_agree(tmp_path):
    path = tmp_path / "tuning.json"
    assert tuning.main(["--calls", "2", "--most", "2", "--seconds", "15", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert len(found["pairs"]) == 2
    assert found["summary"]["largest regret"] < 0.25
    assert all(min(p["first_us"], p["second_us"], p["default_us"]) > 0 for p in found["pairs"])
