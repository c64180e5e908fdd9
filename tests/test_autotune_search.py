"""The searches where the truth is known: regret, flips, budgets, failures, and their parts."""

import math
import random
import statistics

import pytest

from autotune import Candidate, Config
from autotune.search import STRATEGIES, Budget, Exhausted, Trials, prune, search
from autotune.search.descent import Neighbourhood, descend
from autotune.search.halving import cost, halve
from autotune.search.noise import gap, scatter
from autotune.search.pool import fill, predicted, shuffled, spread
from autotune.search.trials import in_order
from autotune.search.verdict import ERROR, decide
from autotune.task import Artefacts, Failure, FailureKind, Limits
from autotune.testing import Surface, SurfaceBench
from autotune.testing.study import exhausted, study, surface

SURFACES = range(50)
INFORMED = sorted(set(STRATEGIES) - {"random", "exhaustive"})


class Changed(Surface):
    """A surface with some of its methods replaced."""

    def __init__(self, seed, **methods):
        super().__init__(seed)
        self.__dict__.update(methods)


class Toy:
    """Candidates with given times and a model that is right."""

    seed = 0
    limits = Limits(shared=1000, registers=255)

    def __init__(self, times, default=None, artefacts=None):
        self.times = {Candidate("toy", c): t for c, t in times.items()}
        self.first = default or min(self.times)
        self.artefacts = artefacts or {}

    def candidates(self):
        return list(self.times)

    def default(self):
        return self.first

    def is_legal(self, candidate):
        return candidate in self.times

    def truth(self, candidate):
        return self.times[candidate]

    predict = truth

    def fault(self, candidate):
        return None

    def compile(self, candidate):
        return self.artefacts.get(candidate, Artefacts(100, 32, 0))


def line(*times):
    return Toy({Config.of(BLOCK=2**i): float(t) for i, t in enumerate(times)})


def at(index):
    return Candidate("toy", Config.of(BLOCK=2**index))


def ledger(task, noise=0.0, failures=None, **limits):
    bench = SurfaceBench(task, noise=noise)
    return Trials(task, bench, Budget(clock=bench.clock, **limits), failures or {})


def run(task, bench=None, **options):
    bench = bench or SurfaceBench(task)
    limits = {name: options.pop(name, None) for name in ("seconds", "trials")}
    return search(task, bench, Budget(clock=bench.clock, **limits), **options)


# How good the choice is.


@pytest.mark.parametrize("strategy", INFORMED)
def test_regret_at_a_tenth_of_the_trials(strategy):
    found = study(strategy, SURFACES)
    assert all(t <= exhausted(s) / 10 for t, s in zip(found.trials, SURFACES, strict=True))
    assert found.mean <= 0.03
    assert found.high <= 0.10


def test_exhaustive_and_random_are_what_they_are_compared_as():
    seeds = SURFACES[:10]
    assert study("exhaustive", seeds, share=None).high <= 0.05
    assert study("random", seeds).mean > 3 * study("guided", seeds).mean


def test_repeated_searches_choose_alike():
    assert study("guided", SURFACES[:15], repeats=4).flip_rate <= 0.15


def test_neighbours_winner_is_raced():
    task = surface(20)
    best = min(filter(task.works, task.candidates()), key=task.truth)
    for seed in range(5):
        found = run(task, SurfaceBench(task, seed), trials=120, neighbours=[best])
        assert task.regret(found.best) < 0.02


# The default.


def test_default_that_is_truly_best_stays():
    replaced = 0
    for seed in SURFACES[:15]:
        plain = surface(seed)
        best = min(filter(plain.works, plain.candidates()), key=plain.truth)
        for noise in range(3):
            found = run(Changed(seed, default=lambda best=best: best), SurfaceBench(plain, noise))
            assert found.default == best
            replaced += found.best != best
    assert replaced <= 1


def test_default_among_equals_is_replaced_in_one_of_twenty_searches_at_most():
    replaced, runs = 0, 0
    for seed in (0, 1, 3):
        flat = Changed(seed, truth=lambda _: 100.0)
        for noise in range(40):
            found = run(flat, SurfaceBench(flat, noise), trials=300)
            replaced += found.best != found.default
            runs += 1
    assert replaced / runs <= ERROR + 0.02


def test_verdict_errs_as_seldom_as_it_says():
    rng, wrong, power, runs = random.Random(1), 0, 0, 300
    for _ in range(runs):
        level = [rng.gauss(0, 0.05) for _ in range(16)]
        samples = {
            at(c): {
                r: math.exp(level[r] + rng.gauss(0, 0.05) + (rng.random() < 0.03))
                for r in range(16)
            }
            for c in range(5)
        }
        wrong += decide(samples, at(2)).best != at(2)
        samples[at(4)] = {r: t * 0.88 for r, t in samples[at(4)].items()}
        power += decide(samples, at(2)).best == at(4)
    assert wrong / runs <= ERROR + 0.02
    assert power / runs >= 0.9


def test_default_stays_where_another_is_faster_by_less_than_a_hundredth():
    assert run(line(100, 99.5), SurfaceBench(line(100, 99.5), noise=0)).best == at(0)
    assert run(line(100, 98), SurfaceBench(line(100, 98), noise=0)).best == at(1)


def test_what_was_given_up_does_not_win():
    steady = {r: 100.0 + (r % 2) for r in range(16)}
    lucky = {r: 50.0 + (r % 2) for r in range(4)}
    good = {r: 80.0 + (r % 2) for r in range(16)}
    assert decide({at(0): steady, at(1): lucky, at(2): good}, at(0)).best == at(2)


def test_one_sample_each_decides_nothing():
    found = decide({at(0): {0: 100.0}, at(1): {0: 10.0}}, at(0))
    assert found.best == at(0) and found.noise == 1.0 and found.ties == (at(1),)


def test_outcome_reports_medians_ties_and_noise():
    task = line(100, 50, 50.2, 80)
    found = run(task, SurfaceBench(task, noise=0.3))
    assert found.best == at(1) and found.ties == (at(2),)
    assert found.speedup == pytest.approx(2, rel=0.05)
    assert 0 < found.noise < 0.05
    assert found.stopped == "" and found.failures == {}
    assert found.times.keys() == {at(i) for i in range(4)}
    # Of the shoot-out alone, which the default leaves, and then the slowest.
    assert found.samples == {at(0): 8, at(1): 32, at(2): 32, at(3): 16}


def test_noise_is_of_the_right_size():
    rng = random.Random(0)
    times = [{r: math.exp(rng.gauss(c, 0.05)) for r in range(400)} for c in range(3)]
    assert scatter(times) == pytest.approx(0.05 * math.sqrt(2), rel=0.1)
    assert scatter([{0: 1.0}]) == math.inf
    found = gap(times[1], times[0], 0.07)
    assert found.estimate == pytest.approx(1, abs=0.01)
    assert found.error == pytest.approx(0.07 / math.sqrt(0.955 * 400))


def test_a_drift_of_the_clock_cancels():
    slow = {r: 103.0 * 1.1**r for r in range(8)}
    fast = {r: 100.0 * 1.1**r for r in range(4, 12)}
    assert gap(slow, fast, 0.0).estimate == pytest.approx(math.log(1.03))
    assert gap({9: 103.0}, {0: 100.0}, 0.0).estimate == pytest.approx(math.log(1.03))


# Determinism.


def test_near_ties_are_in_canonical_order():
    assert in_order({at(2): 100.0, at(1): 100.9, at(0): 101.1}) == [at(1), at(2), at(0)]


@pytest.mark.parametrize("strategy", [*INFORMED, "exhaustive"])
def test_exact_ties_go_to_the_canonical_one(strategy):
    """For any order of the candidates and any noise that is small against the margin."""
    for seed in SURFACES[:3]:
        plain, chosen = surface(seed), set()
        stepped = lambda c, plain=plain: 1.3 ** round(math.log(plain.truth(c), 1.3))  # noqa: E731
        for noise in range(4):
            order = list(plain.candidates())
            random.Random(noise).shuffle(order)
            task = Changed(seed, truth=stepped, candidates=lambda order=order: order)
            found = run(task, SurfaceBench(task, noise, noise=0.005), strategy=strategy)
            equal = [c for c in (found.best, *found.ties) if stepped(c) == stepped(found.best)]
            assert len(equal) > 1
            assert found.best == (found.default if found.default in equal else min(equal))
            chosen.add((found.best, found.ties))
        assert len(chosen) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_same_seeds_same_outcome(strategy):
    task = surface(7)
    a, b = (run(task, SurfaceBench(task, 5), trials=200, strategy=strategy) for _ in range(2))
    assert a == b


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_the_candidates_does_not_matter(strategy):
    task = surface(7)
    other = Changed(7, candidates=lambda: task.candidates()[::-1])
    a, b = (run(t, SurfaceBench(t, 5), trials=200, strategy=strategy) for t in (task, other))
    assert a == b


def test_only_random_depends_on_the_seed():
    task = surface(7)
    for strategy, equal in (("guided", True), ("random", False)):
        a, b = (run(task, trials=150, strategy=strategy, seed=s).times.keys() for s in (0, 1))
        assert (a == b) is equal


# Budgets.


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("trials", [1, 2, 7, 40, 173])
def test_trials_are_kept_to_the_sample(strategy, trials):
    task = surface(2)
    bench = SurfaceBench(task)
    found = run(task, bench, trials=trials, strategy=strategy)
    assert found.trials == bench.trials <= trials
    assert found.default in found.times
    if strategy != "random" or trials < 40:  # random takes no more candidates than fit
        assert found.stopped == "trials"


def test_a_budget_is_spent_to_the_last_trial():
    task = line(*range(10, 20))
    trials = ledger(task, trials=25)
    pool = trials.compile(task.candidates())
    with pytest.raises(Exhausted, match="trials"):
        trials.measure(pool, 4)
    assert trials.spent == trials.bench.trials == 25 and trials.left == 0
    assert [len(trials.samples[at(i)]) for i in range(10)] == [3] * 5 + [2] * 5


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seconds", [0.5, 3.2, 8])
def test_seconds_are_kept_to_a_call(strategy, seconds):
    task = surface(2)
    found = run(task, seconds=seconds, strategy=strategy)
    # A call is eight batches of compiles or 64 samples at most.
    assert found.seconds <= seconds + 8.0
    assert found.stopped == "time" or found.seconds < seconds
    assert found.stopped == "time" or strategy == "random"


def test_a_share_leaves_the_rest():
    trials = ledger(line(1, 2), trials=10)
    pool = trials.compile(trials.task.candidates())
    with trials.share(0.5):
        assert trials.left == 5
        with pytest.raises(Exhausted):
            trials.measure(pool, 9)
    assert trials.spent == 5 and trials.left == 5


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"trials": -1}, {"seconds": math.nan}])
def test_budgets_that_are_none(limits):
    with pytest.raises(ValueError, match="expected a positive limit, got"):
        Budget(**limits)


def test_unknown_strategy():
    with pytest.raises(ValueError, match=r"strategy: expected one of guided, .*, got 'best'"):
        run(line(1, 2), strategy="best")


@pytest.mark.parametrize("when", [1, 30, 150, 320])
def test_interrupt_keeps_what_was_found(when):
    def interrupt(sample):
        if sample == when:
            raise KeyboardInterrupt

    task = surface(14)
    found = run(task, SurfaceBench(task, on_sample=interrupt))
    assert found.stopped == "interrupted"
    assert found.trials <= when
    if when > 100:  # the race is over by then, and something is far better than this default
        assert task.truth(found.best) < 0.8 * task.truth(found.default)
        assert found.speedup > 1.2
    if when == 1:
        assert found.best == found.default and found.times == {}


def test_progress_is_told():
    seen = []
    task = surface(3)
    found = run(task, trials=200, on_progress=seen.append)
    assert [p.trials for p in seen] == sorted(p.trials for p in seen)
    assert seen[-1].trials == found.trials and seen[-1].compiles == found.compiles
    assert list(dict.fromkeys(p.stage for p in seen)) == ["compile", "race", "descent", "shoot-out"]
    assert seen[-1].best in found.times and seen[-1].microseconds == pytest.approx(
        found.times[seen[-1].best], rel=0.1
    )


# Failures.


def test_prune_knows_every_limit():
    limits = Limits(shared=100, registers=64)
    fits, refused = Artefacts(100, 64, 0), Failure(FailureKind.COMPILE, "no")
    compiled = {
        at(0): fits,
        at(1): Artefacts(101, 64, 0),
        at(2): Artefacts(100, 65, 0),
        at(3): Artefacts(100, 64, 1),
        at(4): refused,
        at(5): Artefacts(0, 0, 9),
    }
    out = prune(compiled, limits, may_spill=[at(5)])
    assert out.pop(at(4)) == refused
    assert {c: f.kind for c, f in out.items()} == dict.fromkeys(
        (at(1), at(2), at(3)), FailureKind.RESOURCES
    )
    words = ["shared memory: 101 bytes, the device has 100", "registers: 65", "spills: 1"]
    assert all(word in out[at(i)].detail for i, word in enumerate(words, 1))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", [k for k in FailureKind if k is not FailureKind.ILLEGAL])
def test_every_kind_of_failure_is_kept_and_passed_over(kind, strategy):
    task = line(100, 10, 60, 70)
    failure = Failure(kind, "planted")
    found = run(task, SurfaceBench(task, fails={at(1): failure}), strategy=strategy)
    assert found.failures == {at(1): failure}
    assert found.best == at(2) and at(1) not in found.times


def test_what_fails_later_is_out():
    task = line(100, 10, 60)
    bench = SurfaceBench(task)

    def crash(sample):
        if sample == 20:
            bench.fails = {at(1): Failure(FailureKind.CRASH)}

    bench.on_sample = crash
    found = run(task, bench)
    assert found.best == at(2) and found.failures[at(1)].kind is FailureKind.CRASH
    assert at(1) not in found.times


def test_known_failures_are_not_tried_again():
    task = line(100, 10, 60)
    bench = SurfaceBench(task)
    found = run(task, bench, known_failures={at(1): Failure(FailureKind.HANG)})
    assert found.best == at(2) and bench.compiles == 2
    assert found.failures == {}  # it is remembered as it was


def test_neighbours_that_are_not_legal_are_named():
    alien = Candidate("alien", Config.of(BLOCK=1))
    found = run(line(100, 60), neighbours=[alien, at(1), at(1)])
    assert found.best == at(1)
    assert {c: f.kind for c, f in found.failures.items()} == {alien: FailureKind.ILLEGAL}


@pytest.mark.parametrize("found", [Artefacts(2000, 32, 0), Artefacts(10, 300, 0)])
def test_default_that_cannot_run_is_named(found):
    task = line(100, 80, 60)
    task.artefacts = {at(0): found}
    outcome = run(task)
    assert outcome.best == at(2) and outcome.default == at(0)
    assert outcome.failures[at(0)].kind is FailureKind.RESOURCES
    assert outcome.speedup == 1.0


def test_default_is_compiled_however_slow_it_is_predicted():
    task = line(*range(1, 101))
    task.first, task.artefacts = at(99), {at(99): Artefacts(2000, 32, 0)}
    found = run(task, trials=100)
    assert found.failures[at(99)].kind is FailureKind.RESOURCES and found.best == at(0)


def test_default_that_spills_still_races():
    task = line(10, 80)
    task.artefacts = {at(0): Artefacts(10, 255, 8), at(1): Artefacts(10, 255, 8)}
    found = run(task)
    assert found.best == at(0) and found.failures.keys() == {at(1)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_works(strategy):
    task = line(1, 2, 3)
    fails = {at(i): Failure(FailureKind.COMPILE) for i in range(3)}
    found = run(task, SurfaceBench(task, fails=fails), strategy=strategy)
    assert found.best == found.default == at(0) and found.stopped == "nothing works"
    assert found.failures == fails and found.times == {} and found.speedup == 1.0


# The parts.


def test_the_models_equals_are_spread_out():
    assert spread(7) == [3, 1, 5, 0, 2, 4, 6] and spread(0) == []
    task = line(*[10.0] * 5, 10.2, 14)
    assert predicted(task)[:2] == [at(2), at(5)]
    assert sorted(predicted(task)) == sorted(shuffled(task, 0)) == sorted(task.candidates())
    assert predicted(task)[-1] == at(6)


def test_a_pool_is_filled_up_after_pruning():
    task = line(*range(1, 101))
    task.artefacts = {at(i): Artefacts(9999, 1, 0) for i in range(3)}
    assert fill(ledger(task), predicted(task), 4) == [at(i) for i in range(3, 7)]
    task.artefacts = {at(i): Artefacts(9999, 1, 0) for i in range(100)}
    trials = ledger(task)
    assert fill(trials, predicted(task), 4) == [] and trials.compiles == 16


def test_halving_drops_the_slower_half():
    task = line(*range(100, 164, 4))
    trials = ledger(task)
    assert halve(trials, trials.compile(task.candidates()), 4) == [at(i) for i in range(4)]
    assert [len(trials.samples[at(i)]) for i in (0, 7, 8, 15)] == [4, 4, 2, 2]
    assert trials.spent == cost(16, 4) == 48


def test_descent_follows_a_slope_and_leaves_a_hollow():
    task = line(100, 80, 70, 60, 50, 55, 90, 95, 99, 98)
    trials = ledger(task)
    trials.measure(trials.compile([at(0)]), 2)
    descend(trials, beam=2)
    assert trials.ranked()[0] == at(4)
    assert at(8) not in trials.samples  # nothing led there


def test_neighbours_differ_by_one_step_in_one_coordinate():
    grid = [
        Candidate("a", Config.of(w, s, M=m, N=n))
        for m in (8, 16, 32, 128, 256)
        for n in (16, 32)
        for w in (2, 8)
        for s in (1, 2, 3)
        if (m, n, w, s) != (32, 32, 2, 2)
    ]
    centre = Candidate("a", Config.of(2, 2, M=32, N=16))
    found = Neighbourhood([*grid, Candidate("b", centre.config)]).of(centre)
    changes = {(32, 16, 8, 2), (32, 16, 2, 1), (32, 16, 2, 3), (16, 16, 2, 2), (128, 16, 2, 2)}
    expected = {Candidate("a", Config.of(w, s, M=m, N=n)) for m, n, w, s in changes}
    assert set(found) == expected and len(found) == len(expected)


def test_rounds_are_interleaved_and_calls_bounded():
    calls = []

    class Watched(SurfaceBench):
        def measure(self, candidates, samples):
            calls.append((len(candidates), samples))
            return super().measure(candidates, samples)

    task = line(*range(1, 101))
    trials = Trials(task, Watched(task, noise=0), Budget())
    pool = trials.compile(task.candidates())
    trials.measure(pool[:20], 5)
    assert calls == [(20, 3), (20, 2)]
    assert set(trials.samples[at(0)]) == set(range(5))
    trials.measure(pool, 2)
    assert calls[2:] == [(64, 1), (36, 1)] * 2
    assert statistics.median(trials.samples[at(3)].values()) == trials.median(at(3)) == 4.0
