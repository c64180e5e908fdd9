"""What no candidate is to blame for."""


class BenchError(RuntimeError):
    """Nothing can be measured: no worker starts, the problem cannot be prepared, no device."""


class DeviceBusyError(BenchError):
    """Another process held the device for longer than we would wait."""
