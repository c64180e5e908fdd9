"""Which config to launch a kernel with: records of measurements, searches, and the policy of use.

Knows keys, configs, a way to compile and a way to launch; nothing of what the kernels compute.
"""

from .config import Candidate, Config
from .key import Gpu, Key
from .policies import Policy, policy, set_policy

__all__ = ["Candidate", "Config", "Gpu", "Key", "Policy", "policy", "set_policy"]
