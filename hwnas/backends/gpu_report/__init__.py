"""What the first owner of a card should try: ``hwnas doctor --gpu-report FILE``.

Each step is a function that returns figures, raw samples among them, and raises where something is wrong;
``passed`` of a step is that it did not. `card` looks at the card and what drives it, `engines` at what
TensorRT makes of a network, `steadiness` at how alike its times are; `report` runs the steps in order.
`make test-gpu` runs the same steps as tests. Nothing here needs more than the extra `trt` or `trt8` and ten
minutes.
"""
