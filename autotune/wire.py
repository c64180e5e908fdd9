"""Keys, candidates and artefacts as JSON values: what two processes say to each other."""

from collections.abc import Mapping
from typing import Any

from .config import Candidate, Config
from .key import Gpu, Key
from .task import Artefacts

Json = dict[str, Any]


def key_to_json(key: Key) -> Json:
    """Of a key, everything; tuples may stay tuples, which JSON writes as lists."""
    gpu = key.gpu
    return {
        "provider": key.provider,
        "op": key.op,
        "fields": dict(key.fields),
        "sizes": dict(key.sizes),
        "gpu": {
            "vendor": gpu.vendor,
            "arch": gpu.arch,
            "model": gpu.model,
            "multiprocessors": gpu.multiprocessors,
        },
    }


def key_from_json(value: Any) -> Key:
    """The key that `key_to_json` was given. Raises ValueError on anything else."""
    try:
        gpu = Gpu(**value["gpu"])
        return Key.of(value["provider"], value["op"], value["fields"], value["sizes"], gpu)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"key: expected provider, op, fields, sizes, gpu, got {value}") from error


def candidate_to_json(candidate: Candidate) -> Json:
    """Of a candidate, everything."""
    config = candidate.config
    return {
        "variant": candidate.variant,
        "constants": dict(config.constants),
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


def candidate_from_json(value: Any) -> Candidate:
    """The candidate that `candidate_to_json` was given. Raises ValueError on anything else."""
    try:
        constants: Mapping[str, int] = value["constants"]
        pairs = tuple(sorted(constants.items()))
        return Candidate(value["variant"], Config(pairs, value["num_warps"], value["num_stages"]))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"candidate: expected variant, constants, num_warps, num_stages, got {value}"
        ) from error


def artefacts_to_json(artefacts: Artefacts) -> Json:
    """Of artefacts, everything."""
    return {
        "shared": artefacts.shared,
        "registers": artefacts.registers,
        "spills": artefacts.spills,
    }
