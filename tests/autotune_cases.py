"""Keys, candidates and records for the tests of autotune."""

from autotune import Candidate, Config, Gpu, Key
from autotune.parts import BuildRecord, CandidateRecord, KeyRecord
from autotune.records import Record
from autotune.task import Build

H200 = Gpu("cuda", "sm_90", "NVIDIA H200", 132)
H100 = Gpu("cuda", "sm_90", "NVIDIA H100 PCIe", 114)
A100 = Gpu("cuda", "sm_80", "NVIDIA A100", 108)
NOW = Build("k2", "3.9")
OLD = Build("k1", "3.6")
SMALL = Candidate("gemm", Config.of(4, 2, BLOCK_M=64, BLOCK_N=64))
LARGE = Candidate("gemm", Config.of(8, 3, BLOCK_M=128, BLOCK_N=128))
OTHER = Candidate("direct", Config.of(4, 1, BLOCK=32))


def key_of(n=8, c=64, gpu=H200, op="conv", **fields):
    """A key with sizes N and C."""
    fields = {"dtype": "float16", "stride": (1, 1), "alpha": 1.0, "tf32": True} | fields
    return Key.of("lab", op, fields, {"N": n, "C": c}, gpu)


def record_of(key=None, best=SMALL, build=NOW, **more):
    """A measured record."""
    more = {"best_us": 5.0, "default_us": 10.0, "samples": 9, "validated": True} | more
    return Record(
        key=KeyRecord.of(key or key_of()),
        best=CandidateRecord.of(best),
        default=CandidateRecord.of(OTHER),
        build=build and BuildRecord.of(build),
        created=more.pop("created", "2026-11-21T10:00:00Z"),
        **more,
    )
