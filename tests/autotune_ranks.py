"""What each rank does in the tests of several ranks: `python -m tests.autotune_ranks RANK FOLDER`.

One pair of processes plays all scenes, in this order, since importing torch takes seconds. What a
rank saw in a scene it writes to FOLDER/<scene>.<rank>.json.
"""

import json
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from autotune import Key
from autotune.distributed import agreement, fingerprint, tune_together
from autotune.parts import BuildRecord
from autotune.records import Record, encode
from autotune.search import Budget, search
from autotune.store import Store
from autotune.testing.study import surface
from autotune.testing.surfaces import SurfaceBench

from .autotune_cases import A100, H100, H200, LARGE, NOW, OLD, OTHER, SMALL, key_of, record_of

# Surfaces of one GPU.
SEEDS = (0, 3, 7)
KEYS = [key_of(n=n) for n in range(1, 9)]
MINE = {0: SMALL, 1: LARGE}


class Scene:
    """One rank in one scene: a store of its own, and what it tuned."""

    def __init__(self, rank: int, folder: Path) -> None:
        self.rank, self.folder = rank, folder
        self.store = Store(folder / f"store{rank}", environ={})
        self.tuned: list[str] = []

    def tune_one(self, key: Key) -> Record:
        """A record that shows whose it is."""
        self.tuned.append(key.digest)
        return record_of(key, best=MINE[self.rank])

    def together(self, keys=KEYS, tune_one=None, gpu=H200, **more) -> dict:
        """Tune, and what is there to see afterwards."""
        seen: dict = {"raised": "", "records": {}, "missed": {}, "stopped": {}}
        try:
            done = tune_together(keys, tune_one or self.tune_one, gpu=gpu, store=self.store, **more)
            seen["records"] = {n: str(r.best.candidate()) for n, r in done.records.items()}
            seen["missed"] = done.missed
            seen["stopped"] = done.stopped
        except BaseException as error:
            seen["raised"] = type(error).__name__
            seen["detail"] = str(error)
        seen["tuned"] = self.tuned
        seen["store"] = self.choices()
        return seen

    def choices(self) -> dict[str, str]:
        """What a program that starts now finds."""
        found = Store(self.store.directory, environ={}).entries("user")
        return {entry.key.digest: str(entry.candidate) for entry in found}


def different_lists(scene):
    keys = KEYS[:5] if scene.rank == 0 else KEYS[:2:-1]
    seen = scene.together(keys)
    seen["differences"] = len(agreement(keys, scene.store))
    seen["fingerprint"] = fingerprint(KEYS, scene.store)
    return seen


def shared_folder(scene):
    scene.store = Store(scene.folder / "shared", environ={})
    return scene.together()


def models(scene):
    keys = [key_of(n=n, gpu=gpu) for gpu in (H200, H100, A100) for n in (1, 2)]
    return scene.together(keys, gpu=(H200, H100)[scene.rank])


def raising(scene):
    def tune_one(key):
        record = scene.tune_one(key)
        if scene.rank == 1 and len(scene.tuned) == 1:
            raise RuntimeError("no GPU \ud800" + "x" * 1000)
        if scene.rank == 1 and len(scene.tuned) == 2:
            return record_of(key_of(n=99))
        return record

    return scene.together(tune_one=tune_one)


def interrupted(scene):
    def tune_one(key):
        record = scene.tune_one(key)
        if scene.rank == 1 and len(scene.tuned) == 2:
            scene.store.put(record)  # as `tuner.tune` does
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)
        return record

    return scene.together(tune_one=tune_one)


def interrupted_in_the_last_round(scene):
    def tune_one(key):
        if scene.rank == 1:
            signal.raise_signal(signal.SIGINT)
        return scene.tune_one(key)

    return scene.together(KEYS[:2], tune_one)


def interrupted_while_waiting(scene):
    sent = scene.folder / "sent"

    def interrupt():
        time.sleep(0.2)  # by then this rank waits
        os.kill(os.getpid(), signal.SIGINT)
        sent.touch()

    def tune_one(key):
        if scene.rank == 0 and not scene.tuned:
            threading.Thread(target=interrupt).start()
        while scene.rank == 1 and not sent.exists():
            time.sleep(0.01)
        return scene.tune_one(key)

    seen = scene.together(tune_one=tune_one)
    seen["restored"] = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return seen


def known_before(scene):
    fine, stale = KEYS[:2]
    if scene.rank == 1:
        scene.store.put(record_of(fine, best=OTHER, best_us=1.0))
        scene.store.put(record_of(stale, best=OTHER, best_us=1.0, build=OLD))
        scene.store.put(record_of(KEYS[2], best=OTHER))

    def tune_one(key):
        if key == KEYS[2]:
            raise RuntimeError
        build = BuildRecord(kernels=NOW.kernels, triton=OLD.triton)
        return record_of(key, best=SMALL, build=build.build())

    return scene.together(KEYS[:3], tune_one)


def impossible_key(scene):
    bad = key_of(alpha=object())
    return scene.together(KEYS if scene.rank == 0 else [*KEYS, bad])


def not_written(scene):
    """A rank whose store breaks goes, and says so."""
    if scene.rank == 1:
        scene.store.put = lambda *_, **__: 1 / 0
    return scene.together()


def differing(scene):
    same, other, lacking = KEYS[:3]
    scene.store.put(record_of(same, best_us=3.0 + scene.rank))
    scene.store.put(record_of(other, best=MINE[scene.rank]))
    if scene.rank == 0:
        scene.store.put(record_of(lacking))
    keys = {0: [same, other], 1: [lacking, same]}[scene.rank]
    found = agreement(keys, scene.store)
    override = scene.folder / f"override{scene.rank}.jsonl"
    override.write_bytes(encode(record_of(other, best=OTHER)))
    overridden = Store(scene.store.directory, override=override, environ={})
    return {
        "found": {d.key.digest: str(d) for d in found},
        "same": len(agreement([same], scene.store)),
        "overridden": len(agreement([other], overridden)),
        "fingerprint": fingerprint(KEYS, scene.store),
        "turned": fingerprint(KEYS[::-1], scene.store),
    }


def searching(scene):
    """Real searches, of 60 samples, on synthetic surfaces."""

    def tune_one(key):
        scene.tuned.append(key.digest)
        task = surface(dict(key.fields)["seed"])
        bench = SurfaceBench(task, seed=scene.rank)
        outcome = search(task, bench, Budget(trials=60, clock=bench.clock))
        return Record.of(key, outcome, task.build, "synthetic", {})

    keys = [surface(seed).key for seed in SEEDS]
    seen = scene.together(keys, tune_one, gpu=keys[0].gpu)
    seen["differences"] = len(agreement(keys, scene.store))
    return seen


def group_of_one(scene):
    group = dist.new_group([0])
    return scene.together(KEYS[:2], group=group)


def dying(scene):
    def tune_one(key):
        record = scene.tune_one(key)
        if scene.rank == 1 and len(scene.tuned) == 2:
            os._exit(7)
        return record

    return scene.together(tune_one=tune_one)


SCENES = [
    different_lists,
    shared_folder,
    models,
    raising,
    interrupted,
    interrupted_in_the_last_round,
    interrupted_while_waiting,
    known_before,
    impossible_key,
    not_written,
    differing,
    searching,
    group_of_one,
    dying,
]


def main(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=20),
    )
    for play in SCENES:
        place = folder / play.__name__
        place.mkdir(exist_ok=True)
        begun = time.monotonic()
        seen = play(Scene(rank, place))
        seen["seconds"] = time.monotonic() - begun
        (folder / f"{play.__name__}.{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    # The other rank is gone: nothing is left to be said goodbye to.
    sys.stdout.flush()
    os._exit(0)
