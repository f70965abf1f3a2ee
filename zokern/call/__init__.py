"""What a call of an op consists of: checked lists and layers, named rules, codes, kept calls.

`zokern.ops`, `zokern.native`, `zokern.reference` and the Triton kernels all import this package, and none
of the first three imports another; which kernel runs is asked of `zokern.backends`. This package imports
none of them: where it needs a kernel, it is given one.

| module | what it holds |
|---|---|
| `codes` | the numbers that stand for dtypes, distributions, roundings ... in `csrc/zokern.h` |
| `checks` | argument checks; every failure names the argument and the value |
| `dispatch` | whether PyTorch is to see an op, and seeds as a schema carries them |
| `lists` | lists of tensors with their places in the stream |
| `rules` | the constants of Adam's and AdaMU's updates, by name |
| `prepared` | lists kept from one call to the next |
| `tt_plan` | how a tensor-train layer is contracted |
| `tt_layers`, `tt_noise` | checked tensor-train layers, and the noise that perturbs them in a call |
| `tt_rows` | x and out as matrices of rows |
| `tt_prepared` | layers kept from one call to the next |
"""
