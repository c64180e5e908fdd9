"""The synthetic surfaces are what they were when the searches were tuned, and hard enough."""

import statistics
from collections import Counter

import pytest

from autotune import Candidate
from autotune.task import Artefacts, Failure, FailureKind
from autotune.testing import Surface, SurfaceBench

# Changed only with the generator, and then the table in DESIGN.md is measured again.
DIGESTS = {
    0: "cbd353552611cc3fffa0af12a9f27d5a",
    1: "d5b99b1ad71fb49addd7911a900b9eac",
    2: "bfe13eb8b6091da53454886caa543c68",
    17: "3e45638260054f9031c0fd99e70d6207",
    49: "619131cf50cbfa1e0fbf3a35f2655bee",
    1000: "86cdb1e41e9173f92f9a48961ee827cb",
}


@pytest.mark.parametrize("seed", DIGESTS)
def test_surface_is_frozen(seed):
    assert Surface(seed).digest == DIGESTS[seed]


def test_a_fifth_of_the_configs_is_out_for_every_kind_of_reason():
    out, grid, kinds = 0, 0, Counter()
    for seed in range(6):
        surface = Surface(seed)
        legal = surface.candidates()
        assert len(legal) >= 500 and surface.default() in legal
        assert list(legal) == sorted(legal)
        assert sum(surface.works(c) for c in legal) >= 500
        assert not surface.is_legal(Candidate("other", legal[0].config))
        compiled = SurfaceBench(surface).compile(legal)
        for candidate, found in compiled.items():
            if isinstance(found, Failure):
                kinds["compile"] += 1
            else:
                kinds["shared"] += found.shared > surface.limits.shared
                kinds["spills"] += found.spills > 0
                fault = surface.fault(candidate)
                kinds[fault.value if fault else "works"] += 1
        grid += len(surface.grid)
        out += len(surface.grid) - sum(surface.works(c) for c in legal)
    assert 0.15 < out / grid < 0.35
    assert min(kinds[k] for k in ("compile", "shared", "spills", "crash", "wrong")) > 0


def test_the_model_is_related_to_the_truth_and_wrong_about_it():
    related, wrong = [], []
    for seed in range(12):
        surface = Surface(seed)
        working = [c for c in surface.candidates() if surface.works(c)]
        truth, model = map(surface.truth, working), map(surface.predict, working)
        related.append(statistics.correlation(_ranks(list(truth)), _ranks(list(model))))
        wrong.append(surface.regret(min(working, key=lambda c: (surface.predict(c), c))))
    assert 0.6 < statistics.mean(related) < 0.95
    assert statistics.mean(wrong) > 0.1


def test_noise_is_five_percent_with_outliers_and_none_if_asked():
    surface = Surface(0)
    candidate = surface.default()
    truth = surface.truth(candidate)
    times = SurfaceBench(surface).measure([candidate], 2000)[candidate]
    assert isinstance(times, list)
    assert statistics.median(times) == pytest.approx(truth, rel=0.01)
    low, _, high = statistics.quantiles(times)
    assert 0.05 < (high - low) / truth < 0.09
    assert max(times) > 1.5 * truth
    assert SurfaceBench(surface, noise=0).measure([candidate], 2)[candidate] == [truth, truth]


def test_bench_counts_and_repeats():
    surface = Surface(1)
    chosen = [c for c in surface.candidates() if surface.works(c)][:5]
    bench, again, other = (SurfaceBench(surface, seed=s) for s in (3, 3, 4))
    times = bench.measure(chosen, 4)
    assert bench.trials == 20 and bench.clock() == pytest.approx(0.2)
    assert times == again.measure(chosen, 4) != other.measure(chosen, 4)
    assert all(isinstance(a, Artefacts) for a in bench.compile(chosen).values())
    assert bench.compiles == 5 and bench.clock() == pytest.approx(1.2)


def test_failures_can_be_planted():
    surface = Surface(1)
    a, b, c = [c for c in surface.candidates() if surface.works(c)][:3]
    hang, refused = Failure(FailureKind.HANG), Failure(FailureKind.COMPILE, "no")
    bench = SurfaceBench(surface, fails={a: hang, b: refused})
    assert bench.compile([a, b, c])[b] == refused
    times = bench.measure([a, c], 2)
    assert times[a] == hang and bench.trials == 2


def _ranks(values: list[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    for rank, index in enumerate(order):
        ranks[index] = rank
    return ranks
