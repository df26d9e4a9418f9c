"""The proof of a cut: the pruned model equals the masked reference, on every tensor.

`prove` is the entry. `reference` builds the masked reference; `compare` runs both models, says how far apart each
tensor is and how much of that rounding alone explains. The other modules rewrite both models so that nothing but the
cut can make them differ: `upcast` (half precision, and recurrent layers that amplify a level), `exact_integers`
(kernels that saturate), `unrunnable` (operators that onnxruntime lacks).
"""
