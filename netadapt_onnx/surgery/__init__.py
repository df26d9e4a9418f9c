"""Surgery by label propagation: trace a model, find its groups, cut them, prove the cut.

`trace` runs the `rules` over a model: they label the channels of every tensor (`labels`), and labels that belong
together are `groups`. A `cut` says what is kept of each; `criteria` choose it, `resize` builds the smaller model,
`reconstruct` solves for the weights that it has left, and `verify` proves it equal to the masked original.
"""
