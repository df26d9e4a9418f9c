"""Reconstruction: after a cut, what is left of each layer's weights is solved for so that its output stays.

`layers` sees layers as matrices, `gram` collects the Gram matrices of their inputs and targets on calibration inputs,
`least_squares` solves, and `bias` says where the new bias goes.
"""
