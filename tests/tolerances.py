"""How far apart may figures lie that differ in nothing but how they were rounded?

Which kernel adds up a sum, and in which order, depends on the processor, the number of threads, the
shapes, the strides and where memory begins. So bits are compared only between runs of the same
kernels on the same machine: a seed used twice, a run that is resumed, a loop written by hand of the
very same calls. All else is compared relatively, as rounding grows with what is added up. `atol` is
for entries that nearly cancel, whose relative error has no bound: it is far below the quantities of
about 1 that they are sums of. A wrong divisor or a missing sample changes figures by 1e-3 or more.
"""

# The same float64 sums in another order, over some dozens of updates. A unit in the last place is
# 2e-16, and training multiplies it: relative differences of 2e-12 have been seen.
FLOAT64 = {"rtol": 1e-9, "atol": 1e-11}

# The same in float32, whose unit in the last place is 1e-7. Adam divides a gradient by its own
# size, so where that nearly cancels, much of the update is rounding.
FLOAT32 = {"rtol": 1e-4, "atol": 1e-5}

# One pass through a small net in float32, without any training.
FORWARD = {"rtol": 1e-5, "atol": 1e-6}
