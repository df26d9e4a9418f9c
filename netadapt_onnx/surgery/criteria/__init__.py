"""Criteria: how much each channel of a group matters, and which channels stay.

`weights` holds the criteria that look at weights alone, `activations` the one that looks at activations, `obs` (and its
mathematics, `elimination`) the one that looks at what consumers lose; those by gradients `training` computes.
`selection` chooses channels by any of them, group by group; `ranking` ranks the channels of all groups at once.
"""
