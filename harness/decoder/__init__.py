"""A causal decoder made of parts, for what transformers has no class for: one part differs, all else stays the same.

`DecoderConfig` names a part for each place: `mixer` (what mixes tokens), `feed_forward`, `position`, `norm`, `linear`,
`block` (how mixer and feed-forward are put together), `stack` (how blocks follow each other) and `objective`. With the
parts that are its defaults the model computes what transformers' Llama does. A part is `{"kind": NAME, option: value}`,
and NAME a module of the folder of its place with a `PART`; a mixer, feed-forward or position may be a list, which the
layers take in turn.
"""
