"""The columns of the tables that the kernels read and write, and other numbers with a name."""

import triton.language as tl

# `tensors` (tensors, COLUMNS): 64-bit words, the last six float64. A tensor as the host describes it.
PARAM = tl.constexpr(0)  # addresses
GRAD = tl.constexpr(1)
EXP_AVG = tl.constexpr(2)
EXP_AVG_SQ = tl.constexpr(3)
STEP = tl.constexpr(4)  # address of the float32 that counts the steps, or 0: then the host counts
LR_ADDRESS = tl.constexpr(5)  # address of a float32, or 0: then lr is a column
N = tl.constexpr(6)  # entries of a block
BITS = tl.constexpr(7)  # of a position in a block
K = tl.constexpr(8)  # how many entries of a block move
SEED = tl.constexpr(9)
MAXIMIZE = tl.constexpr(10)
DECAY_ALL = tl.constexpr(11)
ALIGNED = tl.constexpr(12)  # 1: all addresses, and the bytes of a block, are multiples of 16
STEPS_BEFORE = tl.constexpr(13)
LR = tl.constexpr(14)
BETA1 = tl.constexpr(15)
BETA2 = tl.constexpr(16)
EPS = tl.constexpr(17)
WEIGHT_DECAY = tl.constexpr(18)
COLUMNS = tl.constexpr(19)

# `numbers` (tensors, NUMBERS) float32: what a step needs of these, written by the kernel `prepare`.
SKIP = tl.constexpr(0)  # 1: the gradients overflowed, nothing is to be changed
GRAD_FACTOR = tl.constexpr(1)  # unscales, and negates to maximize
FROM_OLD = tl.constexpr(2)
LERP_WEIGHT = tl.constexpr(3)
BETA2_ROUNDED = tl.constexpr(4)
ADDCMUL_VALUE = tl.constexpr(5)
CORRECTION = tl.constexpr(6)
EPS_ROUNDED = tl.constexpr(7)
STEP_SIZE = tl.constexpr(8)
SHRINK = tl.constexpr(9)  # of the selected
SHRINK_ALL = tl.constexpr(10)
NUMBERS = tl.constexpr(11)

# `hash_keys` (tensors, 2) int64, written by `prepare` (hashing.py)
NOISE = tl.constexpr(0)
ROUNDING = tl.constexpr(1)

MOMENTUM = tl.constexpr(0)  # scores, in the order of `SCORES`
GRADIENT = tl.constexpr(1)
MOMENTUM_OVER_RMS = tl.constexpr(2)
RANDOM = tl.constexpr(3)

INFINITE = tl.constexpr(0x7F800000)  # the key of an infinite score
LARGEST = tl.constexpr(3.4028234663852886e38)

# `blocks` (large blocks, BLOCK) int64: a block that is too large for one program, as the host describes it.
TENSOR = tl.constexpr(0)
NUMBER = tl.constexpr(1)  # of the block in its tensor
POOL = tl.constexpr(2)  # where its pool begins
CAPACITY = tl.constexpr(3)  # of its pool
BLOCK = tl.constexpr(4)

# `states` (large blocks, STATE) int64: what the step has found out about it. Entries are ordered by code: by key, and
# of equal keys the first before the others; no two have the same. The k-th highest code is in the bracket [LOW, HIGH].
LOW = tl.constexpr(0)
HIGH = tl.constexpr(1)
WANTED = tl.constexpr(2)  # how many of the bracket's entries move
SIZE = tl.constexpr(3)  # how many entries it has
SHIFT = tl.constexpr(4)  # (code - LOW) >> SHIFT is less than BINS
ABOVE = tl.constexpr(5)  # entries above the first bracket, which is guessed from a sample,
INSIDE = tl.constexpr(6)  # and inside it
POOLED = tl.constexpr(7)  # entries in its pool
STATE = tl.constexpr(8)

# `pending` (MAX_ROUNDS) int32: for how many blocks a round of narrowing has left too many entries.
MAX_ROUNDS = tl.constexpr(32)
UNKNOWN = tl.constexpr(1 << 40)  # a size that no pool holds

# ---- Of sharded tensors (shard_kernels.py)

# `parts` (parts, PART) int64: which part of a sharded tensor a row of `tensors` is, as the host describes it.
SAMPLE_STRIDE = tl.constexpr(0)  # every so many entries of a block one is sampled
OFFSET = tl.constexpr(1)  # index in the local tensor of the first entry
LAYOUT = tl.constexpr(2)  # where in `layouts` that of the tensor begins
ENTRIES = tl.constexpr(3)  # of the full tensor
PART = tl.constexpr(4)

# `layouts` int64: for each layout its number of dimensions, and of each dimension, the last first, how many of its
# indices are here, its stride in the full tensor, and where in `layouts` the indices are; then these.
DIMENSION = tl.constexpr(3)

# `blocks` (shared blocks, SHARED_BLOCK) int64: TENSOR, NUMBER, POOL and CAPACITY of what this process has of a block,
WHOLE = tl.constexpr(4)  # the row of `tensors` that has its K,
ENTRIES_OF_ALL = tl.constexpr(5)  # and how many entries all processes have of it
SHARED_BLOCK = tl.constexpr(6)

# `states` (shared blocks, SHARED_STATE) int64: LOW, HIGH, WANTED, SIZE and SHIFT of the bracket. Its numbers are keys,
# and then, where not all entries with the k-th highest key move, places in the tensor, counted from its end.
KEY = tl.constexpr(5)  # the k-th highest
SLOT = tl.constexpr(6)  # which of the blocks whose places are searched it is; -1: all with this key move
# and POOLED, how many keys from LOW to HIGH there are in its pool, or would be
POOL_SERVES = tl.constexpr(8)  # 1: the bracket is within the one whose keys the pool has
MISSING = tl.constexpr(9)  # 1: the processes have fewer entries than they should
SHARED_STATE = tl.constexpr(10)

# `report` (REPORT) int64: what the host must know to go on.
UNSETTLED = tl.constexpr(0)  # blocks whose k-th highest key is not known yet
INCOMPLETE = tl.constexpr(1)  # blocks of which entries are missing
TIED = tl.constexpr(2)  # blocks whose places are to be searched
REPORT = tl.constexpr(3)
