"""The demonstration: its counts, a short training, and that it notices a wrong gradient."""

import io
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tritonconv import __main__ as command_line
from tritonconv.launch import interpreting

# Without them this module is skipped; imports that need them come after.
for _module in command_line.DEMO_NEEDS:
    pytest.importorskip(_module, reason='needs pip install "tritonconv[demo]"')

from rich.console import Console  # noqa: E402

from tritonconv import demo  # noqa: E402
from tritonconv.demo import deviations, digits, edges  # noqa: E402


def quiet() -> Console:
    """A console that prints nowhere and remembers it."""
    return Console(width=100, record=True, file=io.StringIO())


@pytest.fixture
def seeded():
    """torch's global generator, put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def test_costs_of_edge_detection_are_the_textbooks():
    image = edges.photograph()
    assert image.shape == (1, 1, 280, 320)
    problem = edges.problem_of(image)
    assert problem.output_shape == (1, 1, 280, 319)
    assert problem.operations() == 267_960
    assert problem.matrix_operations() == 16_006_054_680
    assert problem.weight_elements == 2
    assert problem.matrix_nonzeros() == 178_640


def test_edges_are_differences_of_neighbours(aten_path, tmp_path):
    console = quiet()
    edges.run(tmp_path, console)
    image = edges.photograph()
    torch.testing.assert_close(
        edges.detect(image), image[..., 1:] - image[..., :-1], rtol=0, atol=1e-6
    )
    printed = console.export_text()
    for number in ("267,960", "16,006,054,680", "178,640", "319x280"):
        assert number in printed
    assert (tmp_path / "edges.png").stat().st_size > 10_000


def test_digits_are_learned(aten_path, seeded, tmp_path):
    whole = digits.load_split(seed=0)
    assert (len(whole.images), len(whole.held_out_images)) == (1347, 450)
    trained = digits.train(
        replace(whole, images=whole.images[:900], labels=whole.labels[:900]), 4, 0
    )
    assert trained.accuracy() > 0.85

    path = tmp_path / "net.npz"
    digits.save(path, trained)
    net, images, labels = digits.load(path)
    assert torch.equal(labels, whole.held_out_labels[: digits.CHECKED])
    assert torch.equal(net.eval()(images), trained.net(images))
    digits.draw(tmp_path / "digits.png", trained)
    assert (tmp_path / "digits.png").stat().st_size > 10_000


def test_a_shift_moves_no_ink_away(aten_path, seeded):
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4, 4] = 1
    moved = digits.shifted(image)
    assert moved.sum() == pytest.approx(1)
    assert moved[..., 4, 4] >= 0.25
    assert not torch.equal(moved, image)


def tiny_step():
    """A network of the demonstration's kind, small enough to interpret, with data."""
    net = digits.DigitNet(4, 16)
    return net, torch.rand(2, 1, 8, 8), torch.tensor([3, 8])


def test_every_result_is_measured(aten_path, seeded):
    found = deviations.measure(*tiny_step())
    assert [(row.layer, row.result) for row in found] == [
        (layer, result)
        for layer in ("filters", "combine", "classify")
        for result in ("y", "dx", "dw", "db")
    ]
    # Float64 sums of float32 results cannot agree to the last bit everywhere.
    assert any(row.absolute > 0 for row in found)


def test_pooling_is_measured(aten_path, seeded):
    _, images, _ = tiny_step()
    found = deviations.measure_pooling(images)
    assert [(row.layer, row.result) for row in found] == [
        (f"{kind} pool", result) for kind in ("max", "avg", "l2") for result in ("y", "dx")
    ]
    assert all(row.passed for row in found)
    assert found[0].absolute == 0  # a maximum rounds nothing
    assert found[2].absolute > 0 and found[4].absolute > 0


@pytest.mark.parametrize("kind", deviations.POOLS)
def test_a_planted_wrong_pooling_is_reported(aten_path, seeded, monkeypatch, kind):
    _, images, _ = tiny_step()
    true = getattr(deviations, f"{kind}_pool2d")
    monkeypatch.setattr(deviations, f"{kind}_pool2d", lambda *a, **k: true(*a, **k) * (1 + 1e-4))
    wrong = {row.layer for row in deviations.measure_pooling(images) if not row.passed}
    assert wrong == {f"{kind} pool"}


def test_the_layers_own_winners_decide(aten_path, seeded):
    """Equal elements in a window: dy goes to the first, and where nothing is positive nowhere."""
    net, images, labels = tiny_step()
    with torch.no_grad():
        net.filters.weight.zero_()
        net.filters.bias.copy_(torch.tensor([1.0, -1.0, 0.0, 2.0]))
    assert all(row.passed for row in deviations.measure(net, images, labels))
    call, *_ = deviations._step(net, images, labels)
    call.y.grad.fill_(1)
    dz = deviations._at_winners(call)
    assert dz.sum((0, 2, 3)).tolist() == [32, 0, 0, 32]
    assert (dz[:, 0, ::2, ::2] == 1).all()


@pytest.mark.skipif(
    not (interpreting() or torch.cuda.is_available()),
    reason="needs a CUDA device or TRITON_INTERPRET=1",
)
def test_the_kernels_pass(seeded, tmp_path, capsys):
    net, images, labels = tiny_step()
    path = tmp_path / "net.npz"
    split = digits.Split(images, labels, images, labels)
    digits.save(path, digits.Trained(net, split, seconds=0))
    assert demo.check(path) == 0
    printed = capsys.readouterr().out
    assert "All 54 results are within their tolerance" in printed
    assert ("interpreter" if interpreting() else "triton") in printed


@pytest.mark.parametrize("factor", [1 + 1e-4, 0.0, float("nan")])
def test_a_planted_wrong_gradient_is_reported(aten_path, seeded, factor):
    net, images, labels = tiny_step()
    net.combine.weight.register_hook(lambda grad: grad * factor)
    found = deviations.measure(net, images, labels)
    wrong = [(row.layer, row.result) for row in found if not row.passed]
    assert wrong == [("combine", "dw")]
    console = quiet()
    assert deviations.report(found, console) == 1
    printed = console.export_text()
    assert "beyond tolerance: dw of combine in float32" in printed
    assert "1 of 12 results are wrong" in printed


def test_one_wrong_element_is_reported(aten_path, seeded):
    net, images, labels = tiny_step()

    def plant(grad):
        grad = grad.clone()
        grad[-1, -1, -1, -1] += 1e-3 * grad.abs().max()
        return grad

    net.classify.weight.register_hook(plant)
    found = deviations.measure(net, images, labels)
    assert [(row.layer, row.result) for row in found if not row.passed] == [("classify", "dw")]


def test_nothing_is_left_on_the_network(aten_path, seeded):
    net, images, labels = tiny_step()
    deviations.measure(net, images, labels)
    assert not any(module._forward_hooks for module in net.modules())
    assert not images.requires_grad


@pytest.mark.parametrize("dtype", deviations.DTYPES)
def test_tolerance_grows_like_a_random_walk(dtype):
    once, often = deviations.tolerance(dtype, 1), deviations.tolerance(dtype, 10_000)
    assert np.isclose(often - once, 99 * 6 * 2.0**-24, rtol=1e-9)
    assert once > torch.finfo(dtype).eps / 2


@pytest.mark.parametrize("interpreted", [True, False])
def test_training_is_never_interpreted(monkeypatch, tmp_path, interpreted):
    started = []

    def run(command, env, check):
        started.append((command, env.get("TRITON_INTERPRET")))
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(demo, "interpreting", lambda: interpreted)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for part in ("edges.run", "digits.run", "digits.save"):
        monkeypatch.setattr(f"tritonconv.demo.{part}", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert demo.run(tmp_path / "pictures", 2, 5) == 7
    ((command, interpret),) = started
    if interpreted:
        assert interpret is None
        assert command[-4:] == ["--epochs", "2", "--seed", "5"]
    else:
        assert interpret == "1"
        assert command[-2] == "--deviations-only"


@pytest.mark.deep
def test_the_command_runs_all_parts(tmp_path):
    """Started with the interpreter on, it trains without and checks the kernels with it."""
    command = [sys.executable, "-m", "tritonconv", "demo", "--epochs", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts = [done.stdout.index(part) for part in ("1. Edges", "2. A network", "3. How exact")]
    assert parts == sorted(parts)
    assert "All 54 results are within their tolerance" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"edges.png", "digits.png"}


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None if name == "rich" else name)
    assert command_line.main(["demo"]) == 2
    printed = capsys.readouterr().err
    assert "needs rich," in printed
    assert 'pip install "tritonconv[demo]"' in printed


@pytest.mark.parametrize("epochs", ["0", "-3", "many"])
def test_wrong_epochs_are_refused(epochs, capsys):
    with pytest.raises(SystemExit):
        command_line.main(["demo", "--epochs", epochs])
    assert "--epochs" in capsys.readouterr().err
