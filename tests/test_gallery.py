"""The gallery command: its three banks, which responses it shows, and its pictures."""

import subprocess

import pytest
import torch

from tritonconv import __main__ as command_line

# Without them this module is skipped; imports that need them come after.
for _module in command_line.DEMO_NEEDS:
    pytest.importorskip(_module, reason='needs pip install "tritonconv[demo]"')

from tritonconv import demo  # noqa: E402
from tritonconv.demo import edges, gallery  # noqa: E402

NAMES = ["random", "gabor", "kmeans"]


@pytest.fixture
def crop(monkeypatch):
    """A part of the photograph, small enough for a test."""
    image = edges.photograph()[:, :, 60:140, 100:190].contiguous()
    monkeypatch.setattr(gallery, "photograph", lambda: image)
    monkeypatch.setattr(gallery, "PATCHES", 2000)
    return image


def test_the_command_writes_three_pictures(aten_path, crop, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "interpreting", lambda: False)
    out = tmp_path / "pictures"
    assert command_line.main(["gallery", "--out", str(out), "--seed", "3"]) == 0
    assert {path.name for path in out.iterdir()} == {f"filters-{name}.png" for name in NAMES}
    printed = capsys.readouterr().out
    for path in out.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 50_000
        assert str(path) in printed


def test_banks_are_standard_and_follow_the_seed(aten_path, crop):
    found = gallery.families(crop, seed=1)
    assert [family.name for family in found] == NAMES
    for family in found:
        flat = family.bank.flatten(1)
        assert len(flat) == gallery.ROWS * gallery.COLUMNS
        torch.testing.assert_close(flat.norm(dim=1), torch.ones(len(flat)))
        assert flat.mean(dim=1).abs().max() < 1e-6
        assert len(set(family.chosen)) == gallery.SHOWN
    again, other = gallery.families(crop, seed=1), gallery.families(crop, seed=2)
    for first, same, different in zip(found, again, other, strict=True):
        assert torch.equal(first.bank, same.bank) and first.chosen == same.chosen
        assert torch.equal(first.bank, different.bank) == (first.name == "gabor")


def test_labels_of_the_gabor_bank_are_its_waves(aten_path, crop):
    family = gallery.families(crop, seed=0)[1]
    assert family.row_labels[2] == "45°"
    assert family.column_labels[3] == "edge\n1/6"
    bank = family.bank[:, 0].reshape(gallery.ROWS, gallery.COLUMNS, 15, 15)
    # A bar is the same seen from its other end, an edge the opposite.
    for column, label in enumerate(family.column_labels):
        sign = 1 if label.startswith("bar") else -1
        torch.testing.assert_close(bank[:, column].flip(1, 2), sign * bank[:, column])
    # Half a turn is 180 degrees: row 0 does not vary along y, row 4, 90 degrees, not along x.
    # The bell does, but its maximum lies in the middle row, and in the middle column.
    assert bank[0, 0].abs().amax(dim=1).argmax() == 7
    torch.testing.assert_close(bank[4], bank[0].mT)


def test_responses_shown_are_strong_and_unlike():
    x = torch.arange(32.0) * (2 * torch.pi / 32)
    wave = 3 * (4 * x).sin().expand(32, 32)
    shifted, turned, weak = wave.roll(2, dims=1), wave.mT * 0.5, (9 * x).cos().expand(32, 32) / 9
    found = torch.stack([weak, turned, shifted * 0.99, wave])
    assert gallery.varied(found, 3) == [3, 1, 0]
    assert gallery.varied(found[[3, 3]], 2) == [0, 1]


def test_the_gallery_is_never_interpreted(monkeypatch, tmp_path):
    started = []

    def run(command, env, check):
        started.append((command, env.get("TRITON_INTERPRET")))
        return subprocess.CompletedProcess(command, 5)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(demo, "interpreting", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert demo.run_gallery(tmp_path, 4) == 5
    ((command, interpret),) = started
    assert interpret is None
    assert command[2:] == ["tritonconv", "gallery", "--out", str(tmp_path), "--seed", "4"]


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None if name == "rich" else name)
    assert command_line.main(["gallery"]) == 2
    assert "The gallery needs rich, which" in capsys.readouterr().err
