"""The most interpreted launches that a test module may make: each costs 2 ms to seconds.

A module that is not listed may launch nothing. Raise a number only with the time that it costs.
"""

LAUNCHES = {
    "test_launch": 20,
    "test_provider": 80,
    # Stubs that launch nothing: what a call costs beside its kernel.
    "test_tuning": 20000,
    "test_kernels": 2000,
    "test_pool_kernels": 700,
    "test_pool_ops": 160,
    "test_properties": 450,
    "test_separable_fused": 300,
    "test_conv_pool": 400,
    "test_conv_pool_functional": 1000,
    "test_ops": 120,
    "test_overflow": 60,
    "test_functional": 400,
    "test_family": 60,
    "test_family_laws": 600,
    "test_functional_transpose": 10,
    "test_pool_functional": 400,
    "test_pool_beyond": 320,
    "test_pool_tensors": 750,
    "test_pool_properties": 600,
    "test_op_db": 800,
    "test_norm_pooling": 80,
    "test_norm_limits": 600,
    "test_docs": 50,
    "test_errors": 100,
    "test_demo": 60,
}
