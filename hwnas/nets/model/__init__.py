"""A user's own network: where it comes from, its graph, its pieces, and changed forms of them.

`sources` loads it, `trace` makes a graph of it, `cut` finds the pieces between places where one tensor
alone is alive, `widths` says which inner channels of a piece can be taken (`channel_*`: what each operation
does to them), `narrow` takes them, `edits` names a changed form and builds it with the weights kept,
`parent` holds all that is known of one network and gives variants, `refit` fits what stays to what it gave,
`to_onnx` writes pieces and networks as ONNX, `from_onnx` reads them, `result` writes a form to files and
rebuilds it.
"""
