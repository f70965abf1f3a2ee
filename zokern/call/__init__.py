"""What a call of an op consists of: checked lists and layers, named rules, codes, kept calls.

`zokern.ops`, `zokern.native`, `zokern.reference` and the Triton kernels all import this package, and none
of the first three imports another; which kernel runs is asked of `zokern.backends`. This package imports
none of them: where it needs a kernel, it is given one.
"""
