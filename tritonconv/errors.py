"""The two ways in which this library refuses a call."""


class ProblemError(ValueError, RuntimeError):
    """The arguments describe no convolution: says what, what was expected, what came, what to do.

    Both a ValueError (it is one) and a RuntimeError (what torch raises in the same place, so code
    written against torch.nn.functional keeps working).
    """


class UnsupportedProblem(NotImplementedError):
    """The problem is valid, but no variant can run it; carries every variant's reason."""
